"""Equality with the official code, through the public loading path: a file in OpenAI's naming, loaded."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clip_support import load_openai_checkpoint
from denseclip.segment.attention import DenseEncoder, DenseFeatures
from denseclip.segment.decode import decode
from denseclip.segment.refine import key_smoothing, prompt_denoising
from denseclip.segment.settings import Compat, DenseOptions
from fixtures_support import cases

pytestmark = pytest.mark.fixtures
OFFICIAL = Compat.named("official")
VARIANTS = {"": OFFICIAL, "_qg": replace(OFFICIAL, exact_gelu=False)}  # _qg: QuickGELU, eps stays 1e-6


class Case:
    """One fixture file with its CLIP."""

    def __init__(self, path: Path) -> None:
        self.arrays = dict(np.load(path))
        self.meta = json.loads(str(self.arrays["meta"]))
        self.clip = load_openai_checkpoint(self.meta["arch"], self.meta["weight_seed"])
        self.images = self.tensor("image")
        self.text = self.tensor("text")
        self.atol = 5e-5 if self.meta["arch"]["out"] >= 512 else 2e-5  # real sizes
        self._dense: dict[str, tuple[DenseEncoder, DenseFeatures]] = {}

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])

    def dense(self, suffix: str) -> tuple[DenseEncoder, DenseFeatures]:
        if suffix not in self._dense:
            encoder = DenseEncoder(self.clip, DenseOptions(), VARIANTS[suffix])
            self._dense[suffix] = encoder, encoder.encode(self.images, keys=True)
        return self._dense[suffix]

    def close(self, name: str, ours: torch.Tensor, atol: float) -> None:
        theirs = self.tensor(name).numpy()
        largest = max(1.0, float(np.abs(theirs).max()))  # layer4, keys and smoothed sums reach 100 to 400
        np.testing.assert_allclose(ours.numpy(), theirs, atol=atol * largest, rtol=0, err_msg=name)


@pytest.fixture(scope="module", params=cases("maskclip", "model_*.npz"), ids=lambda p: p.stem)
def case(request):
    return Case(request.param)


def variants(case):
    return [suffix for suffix in VARIANTS if f"logits{suffix}" in case.arrays]


def test_features_scores_and_keys(case):
    for suffix in variants(case):
        encoder, dense = case.dense(suffix)
        case.close(f"feat_l2{suffix}", dense.map, case.atol)
        case.close(f"logits{suffix}", encoder.scores(dense, case.text), case.atol)
        case.close(f"k{suffix}", dense.keys, 5e-5)


def test_resnet_trunk_and_attention_pool_baseline(case):
    if case.meta["arch"]["type"] != "rn":
        pytest.skip("not a ResNet")
    layer4 = case.tensor("layer4")
    with torch.inference_mode():
        trunk = case.clip.visual.last_map(case.images)
    case.close("layer4", trunk[:, : layer4.shape[1]], case.atol)
    encoder = DenseEncoder(case.clip, DenseOptions(mix="qk"), OFFICIAL)
    case.close("logits_attnpool", encoder.scores(encoder.encode(case.images), case.text), case.atol)


def test_vit_last_block(case):
    if "x_map" not in case.arrays:
        pytest.skip("no intermediate maps in this case")
    for suffix in variants(case):
        ordinary = DenseEncoder(case.clip, DenseOptions(mix="qk"), VARIANTS[suffix]).encode(case.images)
        theirs = torch.einsum("bchw,cd->bdhw", case.tensor(f"x_map{suffix}"), case.clip.visual.proj)
        np.testing.assert_allclose(ordinary.map, F.normalize(theirs, dim=1), atol=2e-5)


def refined(case, suffix, name):
    """Our scores, refined as the array `name` was."""
    encoder, dense = case.dense(suffix)
    scores = encoder.scores(dense, case.text)
    part = case.arrays[f"ks_partial{suffix}"].item()
    pd = {"pd": case.arrays[f"pd_thresh{suffix}"].item(), "pd050": 0.5}
    pd |= dict.fromkeys(("kspd", "kscospd"), pd["pd"])
    ks = {"ks": 1.0, "kspart": part, "kspd": 1.0, "kscos": 1.0, "kscospd": 1.0}
    if name in pd:
        scores = prompt_denoising(scores, pd[name], keep_best=False)
    if name in ks:
        norm = "channels" if "cos" in name else "positions"
        scores = key_smoothing(scores, dense.keys, ks[name], norm=norm)
    return scores


@pytest.mark.parametrize("name", ["pd", "pd050", "ks", "kspart", "kspd", "kscos", "kscospd"])
def test_refined_scores(case, name):
    for suffix in variants(case):
        case.close(f"logits_{name}{suffix}", refined(case, suffix, name), 1e-3 if "ks" in name else 2e-5)


@pytest.mark.parametrize(("name", "margin"), [("", 1e-3), ("_kspd", 1e-2)])
def test_masks_after_two_resizes(case, name, margin):
    for suffix in variants(case):
        scores = refined(case, suffix, name.strip("_"))
        ours = decode(scores, tuple(case.meta["ori"]), via=tuple(case.meta["size"])).mask
        sure = case.tensor(f"seg_margin{name}{suffix}") > margin
        theirs = case.tensor(f"seg{name}{suffix}")
        assert sure.float().mean() > 0.5
        assert torch.equal(ours[sure].long(), theirs[sure].long())
