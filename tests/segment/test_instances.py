"""result.instances(): connected regions and what is asked of them."""

import cv2
import numpy as np
import pytest
import torch

from denseclip import UserError
from denseclip.segment.regions import find_instances
from denseclip.segment.segmentation import Segmentation


def ring(height=40, width=50):
    mask = np.zeros((height, width), np.uint8)
    mask[5:25, 6:26] = 1
    mask[10:20, 10:20] = 0  # a hole
    mask[30:34, 40:48] = 1
    mask[38, 2] = 2
    return mask


def result(mask, confidence=None, **options):
    scores = torch.zeros(3, 4, 5)
    scores[1] = 0.1
    return Segmentation(
        mask, ("background", "cat", "dog"), scores, np.zeros((*mask.shape, 3), np.uint8), confidence,
        ("background", "cat", "dog"), lambda index: mask, has_background=True, temperature=10.0, **options,
    )  # fmt: skip


def test_regions_with_area_box_and_score():
    confidence = np.full((40, 50), 0.5, np.float32)
    confidence[30:34] = 0.9
    big, small, dot = result(ring(), confidence).instances()
    assert (big.name, big.area, big.box) == ("cat", 300, (6, 5, 20, 20))
    assert (small.name, small.area, small.box, small.score) == ("cat", 32, (40, 30, 8, 4), pytest.approx(0.9))
    assert (dot.name, dot.area, dot.box) == ("dog", 1, (2, 38, 1, 1))
    assert (big.mask(40, 50) | small.mask(40, 50) | dot.mask(40, 50)).sum() == 333
    assert (ring()[big.mask(40, 50)] == 1).all()


def test_scores_without_confidence_are_the_probabilities_of_the_coarse_map():
    share = float(torch.tensor([0.0, 1.0, 0.0]).softmax(0)[1])
    assert result(ring()).instances()[0].score == pytest.approx(share, abs=1e-5)


def test_small_ones_are_left_out_and_holes_filled_by_choice():
    assert [one.area for one in result(ring()).instances(min_area=10)] == [300, 32]
    assert [one.area for one in result(ring()).instances(min_area=2, fill_holes=True)] == [400, 32]
    assert result(np.zeros((4, 4), np.uint8)).instances() == []
    with pytest.raises(UserError, match="min_area 0"):
        result(ring()).instances(min_area=0)


def test_the_void_and_the_background_are_nothing():
    mask = ring()
    mask[0, 0] = 255
    assert len(result(mask, void=255).instances()) == 3
    everything = find_instances(ring(), ("background", "cat", "dog"), lambda label: np.ones((40, 50)))
    assert len(everything) == 5  # the background around, and in the hole


def test_polygons_are_exact_or_within_their_tolerance():
    y, x = np.mgrid[:60, :80]
    mask = ((y - 30) ** 2 + (x - 40) ** 2 < 400).astype(np.uint8)
    (disc,) = result(mask).instances()
    (exact,) = disc.polygons()
    (simple,) = disc.polygons(tolerance=1.5)
    assert 3 <= len(simple) < len(exact) / 2
    shifted = [np.int32(path * 16) - 8 for path in (exact, simple)]  # pixel edges to OpenCV's centers
    planes = [cv2.fillPoly(np.zeros((60, 80), np.uint8), [path], 1, shift=4) for path in shifted]
    assert abs(int(planes[0].sum()) - disc.area) < 0.1 * disc.area
    assert (planes[0] != planes[1]).mean() < 0.05
    with pytest.raises(UserError, match="tolerance"):
        disc.polygons(-1)
