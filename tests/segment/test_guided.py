"""The guided filter: outlines follow the picture."""

import numpy as np
import pytest
import torch

import denseclip
from denseclip import UserError
from denseclip.loading import make_settings
from denseclip.segment.scoring import follow_edges, guided_filter
from denseclip.segment.settings import Refinement


def two_halves(height=80, width=100, edge=43):
    image = np.full((height, width, 3), (200, 30, 40), np.uint8)
    image[:, edge:] = (20, 120, 220)
    return image


def test_a_blurred_edge_moves_to_the_pictures():
    image = two_halves()
    left = torch.linspace(0.9, 0.1, 10).expand(8, 10)  # crosses one half at pixel 50
    shares = torch.stack([left, 1 - left])
    rough = torch.nn.functional.interpolate(shares[None], (80, 100), mode="bilinear")[0].argmax(0)
    assert rough[0].tolist() == [0] * 50 + [1] * 50
    mask, sure = follow_edges(rough, shares, image)
    wrong = (mask != torch.from_numpy(np.arange(100) >= 43)).float().mean()
    assert wrong < 0.05  # 7 of 100 columns before
    assert sure.min() >= 0 and sure.max() <= 1


def test_scores_that_are_linear_in_color_stay_as_they_are():
    guide = torch.rand(3, 24, 30, generator=torch.Generator().manual_seed(0))
    scores = (0.2 * guide[0] - 0.5 * guide[2] + 0.1)[None]
    (out,) = guided_filter(scores, guide, 3, 1e-9)
    torch.testing.assert_close(out, scores[0], atol=1e-4, rtol=0)
    (flat,) = guided_filter(torch.full((1, 5, 6), 0.3), guide, 8)
    torch.testing.assert_close(flat, torch.full((24, 30), 0.3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (2, 50), (64, 3)])
def test_any_size(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    mask, sure = follow_edges(torch.zeros(size, dtype=torch.int32), torch.ones(1, 2, 2), image)
    assert mask.shape == sure.shape == size
    assert (mask == 0).all() and sure.isfinite().all()


def test_classes_that_had_nothing_get_nothing():
    shares = torch.rand(5, 8, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(40, 40, dtype=torch.int32)
    mask[:, 20:] = 3
    found, _ = follow_edges(mask, shares, two_halves(40, 40, 20))
    assert set(found.unique().tolist()) <= {0, 3}


def test_it_is_the_default_of_load_and_of_nothing_else():
    options = {"precision": "fp32", "device": "cpu", "cache": False}
    assert denseclip.load("tiny-rn", ["cat"], **options).settings.refine == Refinement(guided=True)
    assert denseclip.load("tiny-rn", ["cat"], refine="none", **options).settings.refine == Refinement()
    assert denseclip.load("tiny-rn", ["cat"], refine=None, **options).settings.refine == Refinement()
    assert denseclip.load("tiny-rn", ["cat"], compat="official", **options).settings.refine == Refinement()
    assert make_settings().refine == Refinement()
    assert Refinement.parse("pd+guided") == Refinement(pd=0.5, guided=True)
    with pytest.raises(UserError, match="both move outlines"):
        Refinement.parse("pamr+guided")


def test_with_a_threshold_key_smoothing_and_windows():
    picture = two_halves(96, 120, 50)
    for options in ({"threshold": 0.5}, {"refine": "ks+guided"}, {"slide": "64/48"}, {"background": "sky"}):
        options = {"refine": "guided", "background": "none", "resize": "none"} | options
        model = denseclip.load(
            "tiny-rn", ["cat", "grass"], precision="fp32", device="cpu", cache=False, **options
        )
        result = model.segment(picture, confidence=True)
        assert result.mask.shape == (96, 120)
        assert result.mask.max() < len(model.classes)
        assert ((result.confidence >= 0) & (result.confidence <= 1)).all()
