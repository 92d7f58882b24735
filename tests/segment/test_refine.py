"""Prompt denoising and key smoothing: the official results, and the rules written out by hand."""

import re

import numpy as np
import pytest
import torch

from denseclip.errors import UserError
from denseclip.segment.refine import key_smoothing, prompt_denoising
from fixtures_support import cases

REFINED = re.compile(r"(?P<case>.+)/out_ks(?P<cos>cos)?(?P<ks>[\d.]+)_pd(?P<pd>[\d.]+)")


def official(scores, keys, pd, ks, norm="positions"):
    if pd:
        scores = prompt_denoising(scores, pd, keep_best=False)
    return key_smoothing(scores, keys, ks, norm=norm) if ks else scores


def by_hand(scores, keys, threshold, norm, temperature=100.0):
    """The formula with loops over positions, in float64."""
    n, k, h, w = scores.shape
    p = (temperature * scores.double()).softmax(1).flatten(2)
    out = p.clone()
    for image in range(n):
        unit = keys[image].double()
        unit = unit / unit.norm(dim=0 if norm == "positions" else 1, keepdim=True)
        for i in range(h * w):
            if p[image, :, i].max() < threshold:
                out[image, :, i] = sum((unit[i] @ unit[j]) * p[image, :, j] for j in range(h * w))
    return out.view(n, k, h, w)


@pytest.mark.fixtures
@pytest.mark.parametrize("path", cases("maskclip", "refine*.npz"), ids=lambda p: p.stem)
def test_official_refinement(path):
    stored = np.load(path)
    found = [match for match in map(REFINED.fullmatch, stored.files) if match]
    assert found, f"no results in {path}"
    for match in found:
        scores, keys = (torch.from_numpy(stored[f"{match['case']}/{name}"]) for name in ("logits", "k"))
        norm = "channels" if match["cos"] else "positions"
        ours = official(scores, keys, float(match["pd"]), float(match["ks"]), norm)
        expected = torch.from_numpy(stored[match[0]])
        error = (ours - expected).abs().max() / expected.abs().max().clamp(min=1)
        assert error <= 1e-4, (match[0], error)


@pytest.mark.fixtures
@pytest.mark.parametrize("path", cases("maskclip", "model_*.npz"), ids=lambda p: p.stem)
def test_official_models(path):
    stored = np.load(path)
    suffixes = [name.removeprefix("logits") for name in stored.files if re.fullmatch(r"logits(_qg)?", name)]
    assert suffixes
    for suffix in suffixes:
        get = {name: torch.from_numpy(np.asarray(stored[name + suffix])) for name in PARTS}
        scores, keys, pd, part = get["logits"], get["k"], float(get["pd_thresh"]), float(get["ks_partial"])
        for name, pd_threshold, ks_threshold, norm in (
            ("logits_pd", pd, 0, "positions"),
            ("logits_pd050", 0.5, 0, "positions"),
            ("logits_ks", 0, 1.0, "positions"),
            ("logits_kspart", 0, part, "positions"),
            ("logits_kspd", pd, 1.0, "positions"),
            ("logits_kscos", 0, 1.0, "channels"),
            ("logits_kscospd", pd, 1.0, "channels"),
        ):
            ours = official(scores, keys, pd_threshold, ks_threshold, norm)
            tolerance = 1e-3 if ks_threshold else 2e-5
            np.testing.assert_allclose(ours, get[name], rtol=0, atol=tolerance, err_msg=name + suffix)


PARTS = (
    *("logits", "k", "pd_thresh", "ks_partial", "logits_pd", "logits_pd050", "logits_ks", "logits_kspart"),
    *("logits_kspd", "logits_kscos", "logits_kscospd"),
)


def test_denoising_judges_each_picture_by_itself():
    scores = torch.zeros(2, 3, 2, 2)
    scores[0, 1, 0, 0] = 0.2  # class 1 is likely somewhere in picture 0 only
    scores[1, 2] = 0.2
    out = prompt_denoising(scores, 0.5)
    assert [(out[n, k] == -100).all().item() for n in range(2) for k in range(3)] == [
        *(True, False, True),
        *(True, True, False),
    ]
    assert torch.equal(out[0, 1], scores[0, 1])
    assert torch.equal(out[1, 2], scores[1, 2])


def test_denoising_keeps_the_best_of_unlikely_classes():
    scores = torch.zeros(1, 10, 2, 2)
    scores[0, 7, 1, 1] = 0.001
    assert (prompt_denoising(scores, 0.5, keep_best=False) == -100).all()
    kept = prompt_denoising(scores, 0.5)
    assert torch.equal(kept[0, 7], scores[0, 7])
    assert (kept == -100).sum() == 9 * 4


def test_denoising_threshold_zero_is_off():
    scores = torch.randn(1, 5, 3, 3)
    assert torch.equal(prompt_denoising(scores, 0.0), scores)


@pytest.mark.parametrize("norm", ["positions", "channels"])
@pytest.mark.parametrize(("channels", "classes"), [(2, 3), (40, 60)])  # one for each order of multiplication
@pytest.mark.parametrize("threshold", [0.4, 1.0])
def test_smoothing_is_the_written_formula(norm, channels, classes, threshold):
    generator = torch.Generator().manual_seed(channels)
    scores = torch.randn(2, classes, 3, 4, generator=generator) * 0.02
    keys = torch.randn(2, 12, channels, generator=generator)
    ours = key_smoothing(scores, keys, threshold, norm=norm)
    expected = by_hand(scores, keys, threshold, norm)
    assert (ours - expected).abs().max() < 1e-5


def test_smoothing_leaves_sure_positions():
    scores = torch.zeros(1, 2, 1, 3)
    scores[0, 0, 0, 0] = 2.0  # soft-max is exactly one
    keys = torch.randn(1, 3, 4)
    out = key_smoothing(scores, keys, 1.0)
    assert out[0, :, 0, 0].tolist() == [1.0, 0.0]
    assert not torch.allclose(out[0, :, 0, 1], torch.tensor([0.5, 0.5]))


def test_removed_classes_have_no_vote():
    scores = torch.randn(1, 4, 3, 3) * 0.01
    scores[0, 2] = 0.1
    denoised = prompt_denoising(scores, 0.5)
    assert (denoised[0, [0, 1, 3]] == -100).all()
    smoothed = key_smoothing(denoised, torch.randn(1, 9, 5), 1.0, norm="channels")
    assert (smoothed[0, [0, 1, 3]] == 0).all()


def test_smoothing_threshold_zero_is_off():
    scores = torch.randn(1, 5, 3, 3)
    assert torch.equal(key_smoothing(scores, torch.randn(1, 9, 4), 0), scores)


def test_16_bit_scores_are_refined_in_float32():
    scores, keys = torch.randn(1, 5, 3, 3).mul(0.1).bfloat16(), torch.randn(1, 9, 4).bfloat16()
    assert torch.equal(prompt_denoising(scores, 0.3), prompt_denoising(scores.float(), 0.3))
    ours = key_smoothing(scores, keys, 1.0)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, key_smoothing(scores.float(), keys.float(), 1.0))


def test_smoothing_ignores_autocast():
    scores, keys = torch.randn(1, 5, 3, 3) * 0.1, torch.randn(1, 9, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = key_smoothing(scores, keys, 1.0)
    assert torch.equal(inside, key_smoothing(scores, keys, 1.0))


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_that_is_no_probability(threshold):
    scores = torch.zeros(1, 2, 1, 1)
    with pytest.raises(UserError, match=r"prompt denoising is .*: give a probability from 0 \(off\) to 1"):
        prompt_denoising(scores, threshold)
    with pytest.raises(UserError, match=r"key smoothing is .*: give a probability from 0 \(off\) to 1"):
        key_smoothing(scores, torch.zeros(1, 1, 1), threshold)
