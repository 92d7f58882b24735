"""The GPU's decoding kernel, run by Triton's interpreter where there is no GPU, against the CPU's decoding."""

import pytest
import torch

from denseclip.segment.decode import decode
from denseclip.segment.resample import resize

pytest.importorskip("triton")
kernels = pytest.importorskip("denseclip.segment.kernels")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def run(scores, size, via=None, **changes):
    options = {"confidence": None, "temperature": 100.0, "threshold": None, "void": 255, "ids": torch.uint8}
    found = kernels.decode_cells(scores.to(DEVICE), size, via, **(options | changes))
    assert found is not None
    return [None if plane is None else plane.cpu() for plane in found]


SHAPES = [  # (N, K, h, w), size, via
    ((1, 1, 1, 1), (1, 1), None),  # one word, one pixel
    ((2, 5, 3, 2), (19, 12), None),
    ((1, 90, 2, 2), (9, 11), None),
    ((1, 70, 2, 3), (5, 4), None),
    ((1, 7, 3, 4), (9, 7), (40, 32)),  # two steps, the second one smaller
    ((2, 3, 5, 4), (3, 2), None),
    ((1, 6, 3, 3), (23, 29), (32, 30)),
    ((1, 257, 1, 1), (3, 3), None),
]


@pytest.mark.parametrize(("shape", "size", "via"), SHAPES)
@pytest.mark.parametrize("kind", [None, "score", "probability"])
def test_it_decodes_like_the_cpu(shape, size, via, kind):
    torch.manual_seed(sum(shape))
    scores = 0.1 * torch.randn(shape)
    wide = torch.uint8 if shape[1] <= 255 else torch.int32
    mask, confidence, broken = run(scores, size, via, confidence=kind, ids=wide)
    expected = decode(scores, size, via=via, confidence=kind)
    full = resize(scores, size, via)  # (N, K, H, W)
    chosen = full.gather(1, mask.long()[:, None])[:, 0]
    assert (full.amax(1) - chosen).max() <= 1e-6  # the best, or equal to it but for rounding
    assert (mask != expected.mask).float().mean() <= 0.002
    assert not broken
    if kind is not None:
        torch.testing.assert_close(confidence, expected.confidence, atol=5e-6, rtol=1e-5)


def test_the_first_of_equal_classes_wins():
    scores = torch.randn(1, 3, 3, 4).repeat(1, 3, 1, 1)  # classes 3 to 8 are 0 to 2 again
    mask, _, _ = run(scores, (24, 32))
    assert mask.max() <= 2


def test_unsure_pixels_get_the_void():
    scores = 0.01 * torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(3))
    options = {"confidence": "probability", "threshold": 0.4, "void": 9}
    mask, confidence, _ = run(scores, (17, 17), **options)
    assert torch.equal(mask == 9, confidence < 0.4)
    assert 0 < (mask == 9).float().mean() < 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_not_finite_are_told(value):
    scores = torch.zeros(1, 5, 3, 3)
    scores[0, 2, 1, 1] = value
    assert run(scores, (6, 6))[2]


def test_removed_classes_never_win():
    scores = torch.rand(1, 6, 3, 3)
    scores[:, ::2] = -100.0
    assert set(run(scores, (12, 12))[0].unique().tolist()) <= {1, 3, 5}


def test_any_memory_order_will_do():
    scores = torch.randn(2, 5, 3, 4)
    last = scores.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(run(scores, (12, 16))[0], run(last, (12, 16))[0])
