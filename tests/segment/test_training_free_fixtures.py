"""Equality of SC-CLIP, ProxyCLIP, ResCLIP and PAMR with their official code; weights come from files."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import denseclip
from clip_support import openai_state
from denseclip.segment import calibration, refine
from denseclip.segment.fusion import splice
from denseclip.segment.scoring import Decoding
from denseclip.segment.settings import PRESETS
from denseclip.text import ClassEmbeddings
from fixtures_support import cases, training_free_weights

pytestmark = pytest.mark.fixtures
GROUP = "trainingfree"
SLACK = {"logits": 5e-6, "logits_rcs": 5e-6, "probs_sub": 5e-5, "sfr_raw": 1e-6, "sfr": 5e-6, "rcs": 5e-6}


def found(pattern, without="none"):
    return [path for path in cases(GROUP, pattern) if without not in path.stem]


def parametrize(pattern, without="none"):
    return pytest.mark.parametrize("path", found(pattern, without), ids=lambda path: path.stem)


class Case:
    """One fixture file, and the CLIP that it was made with, written to a folder and loaded."""

    def __init__(self, path, folder):
        self.arrays = dict(np.load(path))
        self.meta = json.loads(str(self.arrays["meta"]))
        self.folder = folder

    def __getitem__(self, name):
        return torch.from_numpy(self.arrays[name])

    def load(self, **options):
        arch = self.meta["arch"]
        vision = {"layers": arch["layers"], "width": arch["width"], "patch_size": arch["patch"]}
        vision |= {"image_size": arch["image_size"], "head_width": arch["width"] // arch["heads"]}
        text = {"width": 64, "heads": 1, "layers": 2, "context_length": 77, "vocab_size": 49408}
        config = {"embed_dim": arch["out"], "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
        statistics = {
            "mean": [0.48145466, 0.4578275, 0.40821073],
            "std": [0.26862954, 0.26130258, 0.27577711],
        }
        save_file(openai_state(arch, self.meta["weight_seed"]), self.folder / "model.safetensors")
        (self.folder / "config.json").write_text(
            json.dumps({"model_cfg": config, "preprocess_cfg": statistics})
        )
        if "proxy" in self.meta:
            options |= self._proxy()
        options = {"resize": "none", "background": None} | options
        model = denseclip.load(self.folder, precision="fp32", device="cpu", cache=False, **options)
        text = self["text"]
        words = self["words"].long() if "words" in self.arrays else torch.arange(len(text))
        names = tuple(f"class {i}" for i in range(int(words.max()) + 1))
        model.set_classes(list(names))
        model._embeddings = ClassEmbeddings(text, words, names)
        return model

    def _proxy(self):
        proxy = self.meta["proxy"]
        shapes = training_free_weights.dino_shapes(
            proxy["width"], proxy["layers"], proxy["patch"], proxy["image_size"], proxy["registers"],
            proxy["layer_scale"],
        )  # fmt: skip
        state = training_free_weights.fill(shapes, proxy["seed"])
        torch.save({name: torch.from_numpy(array) for name, array in state.items()}, self.folder / "dino.pth")
        return {"proxy": str(self.folder / "dino.pth"), "proxy_heads": proxy["heads"]}

    def close(self, name, ours, atol=None):
        theirs = self.arrays[name]
        atol = atol or SLACK.get(name) or 2e-5 * max(1.0, float(np.abs(theirs).max()))
        np.testing.assert_allclose(
            np.asarray(ours).reshape(theirs.shape), theirs, atol=atol, rtol=0, err_msg=name
        )

    def scores(self, model):
        """The cosines of the stored picture under the stored words, (K, h, w)."""
        return model.decoding(self.arrays["image"]).maps[0][0]

    def same_directions(self, name, model):
        """Unit features (hw, D) under the rows of the array `name`."""
        ours = model.encode(self.arrays["image"]).features[0].map[0]
        np.testing.assert_allclose(ours.flatten(1).T, F.normalize(self[name], dim=1), atol=2e-5)


@pytest.fixture
def load(tmp_path):
    return lambda path: Case(path, tmp_path)


@parametrize("scclip_*x*.npz")
def test_sc_clip(path, load):
    case = load(path)
    model = case.load(preset="sc-clip", compat="sc-clip")
    case.same_directions("features", model)
    case.close("logits", case.scores(model))
    if "full" in case.meta:
        full = model.decoding(case.arrays["image"])
        step = case.meta["full"]
        ours = np.stack([full.heat(k)[::step, ::step] for k in range(len(case["text"]))])
        case.close("logits_full_sub", ours, 5e-6)


@parametrize("scclip_*x*.npz")
def test_sc_clip_outliers_and_their_repair(path, load):
    case = load(path)
    last, grid = case["blocks"][-1][None, 1:], tuple(case["logits"].shape[1:])
    np.testing.assert_allclose(calibration.outlier_scores(last)[0], case.arrays["lof"], rtol=1e-4)
    bad = calibration.outliers(last)
    assert bad[0].nonzero()[:, 0].tolist() == case.arrays["outliers"].tolist()
    case.close("last_repaired", calibration.repair(last, bad, grid))


@parametrize("scclip_parts.npz")
def test_parts_of_sc_clip(path, load):
    case = load(path)
    for i, (neighbors, share) in enumerate(case.meta["lof"]):
        x = case[f"lof{i}_x"][None]
        np.testing.assert_allclose(
            calibration.outlier_scores(x, neighbors)[0], case.arrays[f"lof{i}_scores"], rtol=1e-4
        )
        ours = calibration.outliers(x, neighbors, share)[0].nonzero()[:, 0].tolist()
        assert ours == case.arrays[f"lof{i}_outliers"].tolist()
    for i, places in enumerate(case.meta["repair"]):
        x = case[f"repair{i}_x"]
        bad = torch.zeros(x.shape[1:], dtype=torch.bool)
        for row, column in places:
            bad[row, column] = True
        ours = calibration.repair(x.flatten(1).T[None], bad.flatten()[None], tuple(bad.shape))
        case.close(f"repair{i}_out", ours[0].T.reshape(x.shape))


@parametrize("proxyclip_*.npz")
def test_proxyclip(path, load):
    case = load(path)
    model = case.load(preset="proxyclip", compat="proxyclip")
    if "padded" not in case.arrays:  # made without the padding, by the tower alone
        model.configure(compat=replace(model.settings.compat, pad_56=False))
    case.same_directions("features", model)
    scores = case.scores(model)
    if "padded" not in case.arrays:
        case.close("logits", scores)
        return
    assert tuple(scores.shape[1:]) == case.arrays["image"].shape[:2]
    case.close("logits_full_sub", scores[:, ::5, ::5], 5e-6)


def resclip_options(case, base="naclip"):
    changes = {"rcs": tuple(case.meta["rcs"]), "sfr": tuple(case.meta["sfr"])}
    return replace(PRESETS[base], feedback_threshold=case.meta["temp_thd"], **changes)


@parametrize("resclip_*x*.npz")
def test_resclip(path, load):
    case = load(path)
    first = case.load(preset=replace(resclip_options(case), sfr=None), compat="resclip")
    case.same_directions("features_rcs", first)
    case.close("logits_rcs", case.scores(first))
    both = case.load(preset=resclip_options(case), compat="resclip")
    encoded = both.encode(case.arrays["image"])
    case.close("last_in", encoded.features[0].tokens)
    case.close("rcs", encoded.features[0].attention)
    case.close("logits", both.decoding(encoded).maps[0])
    alone = case.load(preset=replace(resclip_options(case), rcs=None), compat="resclip")
    assert alone.decoding(case.arrays["image"]).maps[0].isfinite().all()
    for base, _ in case.meta.get("others", []):
        model = case.load(preset=resclip_options(case, base), compat="resclip")
        unit = F.normalize(case[f"features_{base}"], dim=1)  # (hw, D)
        theirs = (case["text"] @ unit.T).unflatten(1, tuple(case.meta["grid"]))
        np.testing.assert_allclose(case.scores(model), theirs, atol=5e-6)


@parametrize("resclip_*x*.npz")
def test_resclip_labels_and_feedback(path, load):
    case = load(path)
    statistics = torch.tensor([[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]])
    mean, std = statistics[..., None, None]
    image = (case["image"].permute(2, 0, 1)[None] / 255 - mean) / std
    patch, threshold = case.meta["arch"]["patch"], case.meta["temp_thd"]
    pixels, patches = calibration.feedback_labels(case["logits_rcs"][None], image, patch, threshold)
    assert (pixels[0].numpy() == case.arrays["pixel_labels"]).mean() >= 0.999
    assert (patches[0].numpy() == case.arrays["patch_labels"]).all()
    case.close("sfr_raw", calibration.agreement(patches[0]))


@parametrize("resclip_parts.npz")
def test_parts_of_resclip(path, load):
    case = load(path)
    for i, (_, _, sigma, decay) in enumerate(case.meta["maps"]):
        labels = case[f"{i}/labels"].long()
        height, width = labels.shape
        y = torch.arange(height).repeat_interleave(width)
        x = torch.arange(width).repeat(height)
        steps = torch.maximum((y[:, None] - y).abs(), (x[:, None] - x).abs())
        passed = calibration.straight(labels, steps)
        assert (passed.numpy() == case.arrays[f"{i}/path"].astype(bool)).all()
        raw = (
            calibration.agreement(labels)
            if decay
            else (labels.flatten()[:, None] == labels.flatten()).float()
        )
        case.close(f"{i}/raw", raw, 1e-6)
        matrix = calibration.smoothed(raw, sigma)
        matrix = F.pad(matrix / (matrix.sum(1, keepdim=True) + 1e-8), (1, 0, 1, 0))
        case.close(f"{i}/matrix", matrix, 5e-6)


@parametrize("pamr_*.npz")
def test_pamr(path, load):
    case = load(path)
    dilations, steps = tuple(case.meta["dilations"]), case.meta["iterations"]
    guide, scores = case["x"], case["mask"]
    case.close("weights", refine.pamr_weights(guide[:1], dilations))
    case.close("one_step", refine.pamr(scores, guide, dilations=dilations, steps=1))
    case.close("out", refine.pamr(scores, guide, dilations=dilations, steps=steps))


@parametrize("scclip_protocol_*.npz")
def test_the_whole_protocol_of_sc_clip(path, load):
    case = load(path)
    meta, (height, width) = case.meta, case.meta["ori"]
    slide = f"{meta['slide_crop']}/{meta['slide_stride']}" if meta["slide_crop"] else None
    model = case.load(preset="sc-clip", compat="sc-clip", slide=slide, threshold=meta["prob_thd"] or None)
    steps = meta.get("pamr_steps") or 0
    compat = replace(model.settings.compat, logit_scale=meta["logit_scale"], area=meta["area_thd"] or 0.0)
    model.configure(compat=compat, refine=replace(model.settings.refine, pamr=steps))
    encoded = model.encode(case.arrays["image"])
    scorer = model._scorer
    if meta["prob_thd"]:  # class 0 is a class of its own here, not a rule's
        background = replace(model.settings.background, words=("class 0",))
        scorer = replace(scorer, settings=replace(scorer.settings, background=background))
    decoding = Decoding(scorer, (height, width), encoded.cuts, encoded.features, [encoded.image])
    words = decoding.planes(0).some(torch.arange(len(case["words"])))  # (P, H, W)
    case.close("logits_sub", words[:, ::5, ::5], 5e-6)
    mask, sure, _ = decoding.decoded(confidence=True)
    certain = case.arrays["margin"] > 1e-3
    assert certain.mean() > 0.9
    assert (mask[0].numpy() == case.arrays["seg"])[certain].all()
    rows = slice(None, None, 5)
    best = case.arrays["probs_sub"].max(0)
    np.testing.assert_allclose(sure[0].numpy()[rows, rows], best, atol=5e-5)


@parametrize("trident_splice_*.npz")
def test_windows_spliced_in_feature_space(path, load):
    case = load(path)
    maps = list(case["window_features"][:, None])
    corners = [tuple(corner) for corner in case.arrays["corners"].tolist()]
    case.close("spliced", splice(maps, corners)[0])
