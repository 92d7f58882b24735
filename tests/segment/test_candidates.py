"""No class that wins anywhere in a cell may be missing from its candidates."""

import pytest
import torch
from score_maps import KINDS, score_map

from denseclip.segment.decode import candidates, cell_nodes


def by_cell(found):
    ids = found.ids.tolist()
    bounds = zip(found.start.tolist(), found.count.tolist(), strict=True)
    return [ids[start : start + count] for start, count in bounds]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [(2, 2), (1, 2), (3, 3), (3, 2), (1, 1)])
def test_some_candidate_is_best_at_any_mix_of_the_nodes(kind, window):
    scores = score_map(kind, (1, 12, 6, 7))[0]
    found = by_cell(candidates(scores, window))
    nodes = cell_nodes(scores, window)
    assert len(found) == len(nodes) == (6 - window[0] + 1) * (7 - window[1] + 1)
    mixes = torch.distributions.Dirichlet(torch.full((nodes.shape[1],), 0.5)).sample((200,))
    for ids, where in zip(found, nodes, strict=True):
        values = mixes @ scores.flatten(1)[:, where].T  # (200, K)
        assert ids == sorted(set(ids))
        gap = values.amax(1) - values[:, ids].amax(1)
        assert (gap <= 1e-6 * values.abs().amax(1)).all()


def test_a_class_on_top_everywhere_is_alone():
    scores = torch.randn(30, 5, 5) * 0.1
    scores[11] += 5
    assert by_cell(candidates(scores, (2, 2))) == [[11]] * 16


def test_classes_below_another_one_are_dropped_though_they_pass_its_lowest_corner():
    slope = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    scores = torch.stack([slope - 0.1, slope, 1 - slope])  # (3, 2, 2)
    assert by_cell(candidates(scores, (2, 2))) == [[1, 2]]


def test_equal_classes_leave_the_lowest():
    assert by_cell(candidates(torch.ones(6, 3, 3), (2, 2))) == [[0]] * 4


def test_smooth_maps_have_few_candidates():
    scores = score_map("smooth", (1, 171, 32, 32))[0]
    count = candidates(scores, (2, 2)).count.float()
    assert count.mean() < 10
    assert count.min() == 1
