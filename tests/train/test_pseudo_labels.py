"""Labels for unlabeled pixels: the official results in both orders, prompts, confidence, phases of a rule."""

import json
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from denseclip.errors import UserError
from denseclip.segment.settings import Refinement
from denseclip.text import ClassEmbeddings
from denseclip.train.pseudo_labels import LabelRule, PseudoLabelInputs, assign_labels, select
from fixtures_support import cases


def embeddings(matrix, owner=None):
    owner = torch.arange(len(matrix)) if owner is None else torch.tensor(owner)
    return ClassEmbeddings(matrix, owner, tuple(f"class {i}" for i in range(int(owner.max()) + 1)))


def official_cases():
    """(file of results, file of inputs, case), of both orders."""
    found = []
    for path in cases("maskclip", "assign_label*.npz"):
        inputs = path if "_v1" not in path.stem else path.with_name(path.name.replace("_v1", ""))
        found += [
            (path, inputs, name.removesuffix("/out")) for name in np.load(path).files if name.endswith("/out")
        ]
    return found


def rule_of(meta, v1):
    return LabelRule(
        tuple(meta["unl"]),
        normalize=meta["norm"],
        refine=Refinement(meta["pd"], meta["ks"], "positions") if meta["clip"] else Refinement(),
        order="v1" if v1 else "official",
        confidence=meta["conf"],
        official=True,
    )


@pytest.mark.fixtures
@pytest.mark.parametrize(("path", "source", "case"), official_cases(), ids=lambda x: getattr(x, "stem", x))
def test_official_labels(path, source, case):
    results, inputs = np.load(path), np.load(source)
    meta = json.loads(str(inputs[f"{case}/meta"]))
    matrix = torch.from_numpy(inputs["text"])
    if meta["cls_bg"]:
        matrix = torch.cat([F.normalize(torch.from_numpy(inputs["bg_raw"])), matrix])
    evidence = PseudoLabelInputs(
        torch.from_numpy(inputs["feat"]), embeddings(matrix), torch.from_numpy(inputs["k"])
    )
    gt = torch.from_numpy(inputs[f"{case}/gt"])[:, 0]
    ours = assign_labels(gt, evidence, rule_of(meta, "_v1" in path.stem))
    assert ours.dtype == gt.dtype
    assert (ours.numpy() == results[f"{case}/out"][:, 0]).mean() >= 0.999


@pytest.fixture
def scene():
    """Random features, words with two prompts for some classes, labels of all three kinds."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(3, 16, 5, 6, generator=random)
    words = embeddings(F.normalize(torch.randn(6, 16, generator=random), dim=1), [0, 1, 1, 2, 3, 3])
    gt = torch.randint(0, 2, (3, 20, 26), generator=random)
    gt[:2, :, 10:] = -1
    gt[:, :3] = 255
    return gt, PseudoLabelInputs(features, words)


def by_hand(gt, evidence, candidates, *, v1):
    """Both orders as their code says, at full size."""
    size = gt.shape[1:]
    features = evidence.features
    if v1:
        features = F.interpolate(features, size, mode="bilinear")
    features = features / features.norm(dim=1, keepdim=True)
    scores = torch.einsum("bdhw,pd->bphw", features, evidence.words.matrix)
    scores = evidence.words.max_over_prompts(F.interpolate(scores, size, mode="bilinear") if v1 else scores)
    scores = F.interpolate(scores[:, list(candidates)], size, mode="bilinear")
    return torch.where(gt < 0, torch.tensor(candidates)[scores.argmax(1)], gt)


@pytest.mark.parametrize(
    ("order", "candidates"), list(product(["official", "v1"], [(2, 3), (3, 2), (0, 1, 2, 3)]))
)
def test_only_unlabeled_pixels_change_and_only_to_candidates(scene, order, candidates):
    gt, evidence = scene
    if order == "v1":  # one prompt a class, as that code has: the norm comes after the best prompt is taken
        evidence = PseudoLabelInputs(evidence.features, embeddings(evidence.words.matrix[:4]))
    before = gt.clone()
    out = assign_labels(gt, evidence, LabelRule(candidates, order=order))
    assert torch.equal(gt, before)
    assert torch.equal(out[gt >= 0], gt[gt >= 0])
    assert (out == by_hand(gt, evidence, candidates, v1=order == "v1")).float().mean() > 0.998
    assert set(out[gt < 0].tolist()) == set(candidates)


def test_the_two_orders_differ_only_where_norms_do(scene):
    gt, evidence = scene
    evidence = PseudoLabelInputs(F.normalize(evidence.features, dim=1), evidence.words)
    official, v1 = (
        assign_labels(gt, evidence, LabelRule((0, 1, 2, 3), order=order)) for order in ("official", "v1")
    )
    assert torch.equal(official, v1)


def test_selected_classes_keep_their_prompts(scene):
    words = scene[1].words
    some = select(words, (3, 1))
    assert some.classes == ("class 3", "class 1") and some.class_of_prompt.tolist() == [0, 0, 1, 1]
    assert torch.equal(some.matrix, words.matrix[[4, 5, 1, 2]])


def test_confidence_leaves_labeled_pixels_alone(scene):
    gt, evidence = scene
    sure = assign_labels(gt, evidence, LabelRule((0, 1, 2, 3)))
    some = assign_labels(gt, evidence, LabelRule((0, 1, 2, 3), confidence=0.9, temperature=10.0))
    unsure = some != sure
    assert 0.1 < unsure[gt < 0].float().mean() < 0.99
    assert (some[unsure] == -1).all() and (gt[unsure] < 0).all()
    full = F.interpolate(
        evidence.words.max_over_prompts(
            torch.einsum("bdhw,pd->bphw", F.normalize(evidence.features, dim=1), evidence.words.matrix)
        ),
        gt.shape[1:],
        mode="bilinear",
    )
    probability = (10 * full).softmax(1).amax(1)
    expected = (probability < 0.9) & (gt < 0)
    assert (unsure == expected).float().mean() > 0.998


def test_confidence_after_smoothing_is_a_share(scene):
    gt, evidence = scene
    keys = torch.rand(3, 30, 8, generator=torch.Generator().manual_seed(1))
    evidence = PseudoLabelInputs(evidence.features, evidence.words, keys)
    rule = LabelRule((0, 1, 2, 3), refine=Refinement(ks=1.0), confidence=0.4)
    left = (assign_labels(gt, evidence, rule)[gt < 0] == -1).float().mean()
    assert 0 < left < 1


def test_nothing_unlabeled(scene):
    gt, evidence = scene
    gt = gt.clamp(min=0)
    assert torch.equal(assign_labels(gt, evidence, LabelRule((2,))), gt)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": ()}, "no class is left"),
        ({"candidates": (3, 255)}, "at most 255 classes"),
        ({"order": "v2"}, "label order 'v2' is unknown; choose official or v1"),
        ({"order": "v1", "confidence": 0.5}, "label order v1 has no refinement and no confidence"),
        ({"order": "v1", "refine": Refinement(pd=0.5)}, "label order v1 has no refinement"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        LabelRule(**{"candidates": (0,), **options})
