"""Masks and confidences against full-size interpolation."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from score_maps import KINDS, score_map
from torch.utils._python_dispatch import TorchDispatchMode

from denseclip.errors import UserError
from denseclip.segment import decode as decode_module
from denseclip.segment.decode import decode
from denseclip.segment.resample import resize
from fixtures_support import cases

WAYS = ("cells", "chunks", "own choice")


@pytest.fixture
def force(monkeypatch):
    """Make `decode` go one way, if asked for in pieces so small that every seam between them is met."""

    def choose(way, *, small=True):
        if way != "own choice":
            monkeypatch.setattr(decode_module, "cells_pay", lambda *_: way == "cells")
        if small:
            monkeypatch.setattr(decode_module, "CHUNK_SCORES", 3000)
            monkeypatch.setattr(decode_module, "BAND_SCORES", 300)
            monkeypatch.setattr(decode_module, "BLOCK_SCORES", 500)
            monkeypatch.setattr(decode_module, "CROWD_SCORES", 700)

    return choose


def assert_decodes(scores, size, via=None, temperature=100.0):
    """The mask's class has the highest score wherever the difference is more than rounding; confidences agree."""
    full = resize(scores.float(), size, via)  # (N, K, H, W)
    top = full.amax(1)
    counts = scores.float().abs() * (scores != -100)  # a removed class says nothing about rounding
    relative = 2e-6 + 1e-7 * max(*scores.shape[2:], *(via or ()))  # positions are float32, too
    rounding = relative * (resize(counts, size, via).amax(1) + 100 * (top < -99))
    plain = decode(scores, size, via=via)
    mask = plain.mask
    assert plain.confidence is None
    assert mask.shape == top.shape
    assert mask.dtype == (torch.uint8 if scores.shape[1] <= 256 else torch.int32)
    chosen = full.gather(1, mask.long()[:, None])[:, 0]
    assert (top - chosen <= rounding).all()
    scored = decode(scores, size, via=via, confidence="score")
    assert torch.equal(scored.mask, mask)
    assert ((scored.confidence - top).abs() <= rounding).all()
    likely = decode(scores, size, via=via, confidence="probability", temperature=temperature)
    assert (top - full.gather(1, likely.mask.long()[:, None])[:, 0] <= rounding).all()
    expected = (temperature * full.double()).softmax(1).amax(1)
    assert ((likely.confidence - expected).abs() <= 1e-5 + 2 * temperature * rounding).all()


SIDE = st.integers(1, 9)
LARGE_SIDE = st.integers(1, 45)


@pytest.mark.parametrize("way", WAYS)
def test_any_map_to_any_size(way, force):
    force(way)

    @settings(max_examples=60, deadline=None)
    @given(
        kind=st.sampled_from(KINDS),
        shape=st.tuples(st.integers(1, 2), st.integers(1, 20), SIDE, SIDE),
        size=st.tuples(LARGE_SIDE, LARGE_SIDE),
        via=st.none() | st.tuples(LARGE_SIDE, LARGE_SIDE),
        seed=st.integers(0, 1000),
    )
    def check(kind, shape, size, via, seed):
        assert_decodes(score_map(kind, shape, seed), size, via)

    check()


@pytest.mark.parametrize(
    ("shape", "size", "via"),
    [
        ((1, 21, 16, 16), (256, 256), None),
        ((2, 21, 12, 16), (166, 250), (192, 256)),
        ((1, 7, 14, 14), (188, 250), None),
        ((1, 5, 1, 1), (300, 301), None),
        ((1, 5, 2, 2), (640, 643), None),  # strips longer than their limit
        ((1, 30, 40, 40), (81, 83), None),
        ((1, 300, 9, 9), (81, 90), None),
        ((1, 3, 50, 50), (20, 130), None),
    ],
    ids=str,
)
@pytest.mark.parametrize("way", WAYS)
def test_real_sizes(shape, size, via, way, force):
    force(way, small=False)
    assert_decodes(score_map("smooth", shape), size, via)


def test_smooth_maps_decode_to_the_very_same_mask():
    scores = score_map("smooth", (1, 60, 20, 24), seed=3)
    expected = resize(scores, (320, 391)).argmax(1)
    assert torch.equal(decode(scores, (320, 391)).mask.long(), expected)


@pytest.mark.parametrize("kind", ["equal", "twins"])
@pytest.mark.parametrize("way", WAYS)
def test_the_lowest_of_equal_classes_wins(kind, way, force):
    force(way)
    scores = score_map(kind, (1, 12, 5, 6))
    mask = decode(scores, (70, 80)).mask
    assert (mask % 2 == 0).all()
    assert kind == "twins" or (mask == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_scores_are_decoded_in_float32(dtype):
    scores = score_map("smooth", (1, 30, 12, 12)).to(dtype)
    ours = decode(scores, (200, 210), confidence="score")
    wide = decode(scores.float(), (200, 210), confidence="score")
    assert torch.equal(ours.mask, wide.mask)
    assert ours.confidence.dtype == torch.float32
    assert torch.equal(ours.confidence, wide.confidence)


def test_layout_does_not_matter():
    scores = score_map("smooth", (2, 30, 12, 12))
    expected = decode(scores, (200, 210)).mask
    assert torch.equal(decode(scores.to(memory_format=torch.channels_last), (200, 210)).mask, expected)
    assert torch.equal(decode(scores[:1].expand(2, -1, -1, -1), (200, 210)).mask[1], expected[0])


@pytest.mark.parametrize("way", WAYS)
def test_autocast_does_not_make_it_coarse(way, force):
    force(way)
    scores = score_map("smooth", (1, 30, 12, 12))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = decode(scores, (100, 110), confidence="probability")
    outside = decode(scores, (100, 110), confidence="probability")
    assert torch.equal(inside.mask, outside.mask)
    assert torch.equal(inside.confidence, outside.confidence)


@pytest.mark.parametrize("way", WAYS)
def test_threshold_marks_the_unsure(way, force):
    force(way)
    scores = score_map("smooth", (1, 9, 8, 8))
    plain = decode(scores, (90, 95), confidence="probability")
    cut = plain.confidence.median().item()
    marked = decode(scores, (90, 95), confidence="probability", threshold=cut, void=4)
    unsure = plain.confidence < cut
    assert unsure.any()
    assert (marked.mask[unsure] == 4).all()
    assert torch.equal(marked.mask[~unsure], plain.mask[~unsure])
    assert torch.equal(marked.confidence, plain.confidence)


@pytest.mark.parametrize(
    ("classes", "void", "dtype"),
    [(256, None, torch.uint8), (257, None, torch.int32), (20, 255, torch.uint8), (20, 256, torch.int32)],
)
def test_ids_fit_their_type(classes, void, dtype):
    scores = torch.zeros(1, classes, 2, 2)
    scores[:, -1] = 1.0
    marks = {} if void is None else {"threshold": 2.0, "void": void}
    mask = decode(scores, (4, 4), confidence="score", **marks).mask
    assert mask.dtype == dtype
    assert (mask == (classes - 1 if void is None else void)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_broken_scores_are_refused(bad):
    scores = torch.zeros(1, 3, 4, 4)
    scores[0, 1, 2, 2] = bad
    with pytest.raises(UserError, match="NaN or infinite values: run the encoder in float32 or bfloat16"):
        decode(scores, (8, 8))


def test_ten_thousand_classes():
    scores = score_map("smooth", (1, 10_000, 4, 4))
    full = resize(scores, (40, 40))
    assert torch.equal(decode(scores, (40, 40)).mask.long(), full.argmax(1))


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else [out]:
            if isinstance(one, torch.Tensor):
                self.bytes = max(self.bytes, one.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("kind", ["smooth", "noise"])
@pytest.mark.parametrize("confidence", [None, "score", "probability"])
@pytest.mark.parametrize("way", ["cells", "chunks"])
def test_nothing_as_large_as_the_full_size_scores_exists(kind, confidence, way, monkeypatch):
    scores = score_map(kind, (1, 60, 12, 12))
    monkeypatch.setattr(decode_module, "cells_pay", lambda *_: way == "cells")
    monkeypatch.setattr(decode_module, "CHUNK_SCORES", 1 << 18)
    with Largest() as largest:
        decode(scores, (240, 240), confidence=confidence)
    full = 60 * 240 * 240 * 4
    assert 0 < largest.bytes < full / 10


@pytest.mark.fixtures
@pytest.mark.parametrize("path", cases("maskclip", "model_*.npz"), ids=lambda p: p.stem)
def test_official_masks(path):
    stored = np.load(path)
    meta = json.loads(str(stored["meta"]))
    size, via = tuple(meta["ori"]), tuple(meta["size"])
    checked = 0
    for scores, mask, margin, sure in (
        ("logits", "seg", "seg_margin", 1e-3),
        ("logits_kspd", "seg_kspd", "seg_margin_kspd", 1e-2),
    ):
        for suffix in ("", "_qg"):
            if mask + suffix not in stored.files:
                continue
            ours = decode(torch.from_numpy(stored[scores + suffix]), size, via=via).mask.numpy()
            counted = stored[margin + suffix] > sure
            assert counted.any()
            assert (ours == stored[mask + suffix])[counted].all(), mask + suffix
            checked += 1
    assert checked
