"""Taps against full-size interpolation."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from denseclip.segment.resample import heatmaps, resize, scores_at, taps

LENGTH = st.integers(1, 40)


@settings(max_examples=50, deadline=None)
@given(n_in=LENGTH, n_out=st.integers(1, 150), via=st.none() | st.integers(1, 150))
def test_taps_are_the_resize(n_in, n_out, via):
    line = torch.randn(1, 1, n_in, 1)
    expected = resize(line, (n_out, 1), via and (via, 1))[0, 0, :, 0]
    found = taps(n_in, n_out, via, line.dtype, line.device)
    lines, weight = found.lines(torch.arange(n_out))
    assert lines.min() >= 0
    assert lines.max() < n_in
    torch.testing.assert_close((line[0, 0, :, 0][lines] * weight).sum(1), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(weight.sum(1), torch.ones(n_out))


@pytest.mark.parametrize(
    ("n_in", "n_out", "via", "width"),
    [
        (32, 512, None, 2),
        (32, 500, None, 2),
        (7, 7, None, 1),
        (1, 9, None, 1),
        (16, 375, 512, 3),
        (8, 3, None, 2),
    ],
)
def test_taps_are_few(n_in, n_out, via, width):
    assert taps(n_in, n_out, via, torch.float32, torch.device("cpu")).width == width


def test_resize_in_two_steps_is_two_interpolations():
    maps = torch.randn(1, 2, 4, 5)
    step = F.interpolate(maps, size=(33, 20), mode="bilinear", align_corners=False)
    expected = F.interpolate(step, size=(50, 41), mode="bilinear", align_corners=False)
    assert torch.equal(resize(maps, (50, 41), (33, 20)), expected)


@pytest.mark.parametrize("via", [None, (64, 48)])
def test_heatmaps_are_the_chosen_classes(via):
    scores = torch.randn(2, 9, 4, 3)
    full = resize(scores, (50, 41), via)
    torch.testing.assert_close(heatmaps(scores, [7, 0], (50, 41), via=via), full[:, [7, 0]])
    half = heatmaps(scores.half(), [3], (50, 41), via=via)
    assert half.dtype == torch.float32


@pytest.mark.parametrize("via", [None, (64, 48), (3, 2)])
def test_scores_at_pixels(via):
    scores = torch.randn(2, 9, 4, 3)
    full = resize(scores, (50, 41), via)
    points = torch.tensor([[0, 0], [49, 40], [13, 22], [49, 0], [25, 7]])
    expected = full[:, :, points[:, 0], points[:, 1]].transpose(1, 2)
    torch.testing.assert_close(scores_at(scores, points, (50, 41), via=via), expected)
