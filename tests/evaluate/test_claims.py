"""Verdicts on constructed counts: what is held, what is not, and what is said about it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from denseclip.evaluate.metrics import ConfusionMatrix
from denseclip.evaluate.protocol import Protocol
from denseclip.evaluate.reproduce.claims import judge
from denseclip.evaluate.reproduce.sides import chance
from denseclip.evaluate.result import Result
from denseclip.recipes import ClaimRecipe, Recipe, recipe

CLASSES = ("cat", "dog", "grass", "sky")
PROTOCOL = Protocol("m", "m: one", "ff", "d", "val", 1, "ee", {}, None, {})
SHOWN = {"RN50": "tiny-rn", "RN50x16": "tiny-large", "voc20": "stickers20"}


def counted(wrong, images=60, seed=0, only=None):
    """A result that errs at the share `wrong` of the pixels (of class `only`), on images fixed by `seed`."""
    target = np.random.default_rng(seed).integers(0, 4, (images, 10, 10))
    noise = np.random.default_rng(int(wrong * 1e6) + 1)
    hit = noise.random(target.shape) < wrong
    if only is not None:
        hit &= target == only
    prediction = np.where(hit, (target + 1) % 4, target)
    matrix = ConfusionMatrix(4, per_image=True)
    matrix.update(torch.from_numpy(prediction), torch.from_numpy(target))
    return Result(PROTOCOL, matrix, CLASSES)


def judged(claim, **wrong):
    """Verdicts of one claim on runs {method: share of errors, or result}."""
    table = replace(recipe("table3"), claims=(claim,))
    runs = {
        ("RN50", "voc20", name): share if isinstance(share, Result) else counted(share)
        for name, share in wrong.items()
    }
    return judge(table, runs, SHOWN)


HIGHER = ClaimRecipe("a is above b", higher=("a",), lower=("b",))


def test_a_clear_difference_is_held_with_figures_and_interval():
    (claim,) = judged(HIGHER, a=0.1, b=0.3)
    assert claim.held
    assert claim.why == ""
    assert claim.claim == "a is above b (tiny-rn, stickers20)"
    assert claim.figures["difference"] == pytest.approx(claim.figures["a"] - claim.figures["b"], abs=0.011)
    assert 0 < claim.interval[0] < claim.figures["difference"] < claim.interval[1]


def test_the_opposite_is_not_held_and_the_sentence_names_the_class_that_loses_most():
    (claim,) = judged(HIGHER, a=counted(0.6, only=1), b=0.0)
    assert not claim.held
    assert claim.interval[1] < 0
    assert "opposite is found" in claim.why
    assert "IoU is lower in 2 of 4 classes, most in dog" in claim.why


def test_a_difference_within_the_noise_is_not_held_and_said_to_be_so():
    a, b = counted(0.3), counted(0.3001)
    (claim,) = judged(HIGHER, a=a, b=b)
    assert not claim.held
    assert claim.interval[0] < 0 < claim.interval[1]
    assert "60 images" in claim.why
    assert "cannot be told" in claim.why


def test_classes_that_are_found_no_more_are_counted():
    gone = counted(0.0)
    lost = counted(0.0)
    areas = lost.matrix.per_image.clone()
    areas[:7, 0, 0] = 0
    lost.matrix.load_state_dict({"matrix": lost.matrix.matrix, "per_image": areas})
    (claim,) = judged(HIGHER, a=lost, b=gone)
    assert "Of 240 times that b finds a class in an image, a misses 7; it adds 0." in claim.why


def test_best_compares_with_the_best_rival_alone():
    claim = ClaimRecipe("together most", higher=("both",), lower=("one", "two"), against="best")
    (held,) = judged(claim, both=0.05, one=0.2, two=0.3)
    assert held.held
    assert held.figures["difference"] == pytest.approx(held.figures["both"] - held.figures["one"], abs=0.011)
    (lost,) = judged(claim, both=0.25, one=0.2, two=0.5)
    assert not lost.held  # although it is above the mean of its rivals


def test_means_of_groups_are_compared_and_ranked():
    claim = ClaimRecipe("blur is milder", higher=("blur", "defocus"), lower=("noise", "shot"))
    (held,) = judged(claim, blur=0.1, defocus=0.2, noise=0.3, shot=0.4)
    mean = np.mean([held.figures["blur"], held.figures["defocus"]])
    assert held.held
    assert held.figures["difference"] == pytest.approx(
        mean - np.mean([held.figures["noise"], held.figures["shot"]]), abs=0.02
    )
    (lost,) = judged(claim, blur=0.4, defocus=0.2, noise=0.1, shot=0.15)
    assert not lost.held
    names = [lost.why.index(name) for name in ("blur", "defocus", "shot", "noise")]
    assert names == sorted(names)


def test_twice_chance_is_asked_for_and_not_just_more_than_chance():
    claim = ClaimRecipe("far above chance", higher=("a",), lower=("chance",), times=2)
    (held,) = judged(claim, a=0.3)
    assert held.held
    assert held.figures["chance"] == pytest.approx(100 / 7, abs=0.5)  # 1/4 of the pixels right, of 4 classes
    (lost,) = judged(claim, a=0.7)
    assert lost.figures["a"] > lost.figures["chance"]
    assert not lost.held
    assert "where 2 times are asked for" in lost.why


def test_chance_is_what_guessing_gives_on_average():
    result = counted(0.0, images=40)
    truth = result.matrix.per_image
    rng = np.random.default_rng(3)
    target = np.random.default_rng(0).integers(0, 4, (40, 10, 10))
    matrix = ConfusionMatrix(4)
    for _ in range(20):
        matrix.update(torch.from_numpy(rng.integers(0, 4, target.shape)), torch.from_numpy(target))
    total = chance(truth).sum(0)
    np.testing.assert_allclose(total[:, 0] / total[:, 1], matrix.iou(), atol=0.01)


def falling(levels, **shares):
    table = Recipe("x", "", (), {}, (ClaimRecipe("falls with {kind}", kind="falls"),), levels)
    runs = {("RN50", "voc20", name.replace("-", " ")): counted(share) for name, share in shares.items()}
    return judge(table, runs, SHOWN)


def test_a_fall_from_level_to_level_is_held_for_each_kind_that_was_run():
    one = {"clean": 0.1, "spatter-1": 0.15, "spatter-2": 0.2, "spatter-3": 0.3}
    (claim,) = falling((1, 2, 3), **one)
    assert claim.held
    assert claim.claim == "falls with spatter (tiny-rn, stickers20)"
    assert list(claim.figures) == ["clean", "spatter 1", "spatter 2", "spatter 3", "difference"]
    assert claim.figures["difference"] == pytest.approx(
        claim.figures["clean"] - claim.figures["spatter 3"], abs=0.011
    )
    both = falling((1,), **{"clean": 0.1, "spatter-1": 0.3, "gaussian_blur-1": 0.3})
    assert [claim.claim for claim in both] == [
        "falls with gaussian blur (tiny-rn, stickers20)",
        "falls with spatter (tiny-rn, stickers20)",
    ]


def test_a_rise_between_levels_breaks_it_and_is_named():
    (claim,) = falling((1, 2, 3), **{"clean": 0.1, "spatter-1": 0.4, "spatter-2": 0.2, "spatter-3": 0.5})
    assert not claim.held
    assert "From spatter 1 to spatter 2 mIoU rises by" in claim.why


def test_no_fall_at_all_is_not_held():
    (claim,) = falling((1, 2), **{"clean": 0.3, "spatter-1": 0.3001, "spatter-2": 0.3002})
    assert not claim.held
    assert "Clean against the strongest level" in claim.why


def test_claims_without_their_runs_or_about_other_models_are_left_out():
    assert judged(HIGHER, a=0.1) == []
    assert judged(replace(HIGHER, models=("ViT-B-16",)), a=0.1, b=0.2) == []


def test_models_named_in_a_claim_are_compared_with_each_other():
    claim = ClaimRecipe("larger is better", higher=("RN50x16/a",), lower=("RN50/a",))
    table = replace(recipe("table3"), claims=(claim,))
    runs = {("RN50", "voc20", "a"): counted(0.4), ("RN50x16", "voc20", "a"): counted(0.2)}
    (found,) = judge(table, runs, SHOWN)
    assert found.held
    assert found.claim == "larger is better (stickers20)"
    assert set(found.figures) == {"RN50/a", "RN50x16/a", "difference"}
