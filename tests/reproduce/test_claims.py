"""Verdicts on constructed counts: what is held, what is not, and what is said about it."""

import numpy as np
import pytest
import torch

from denseclip.evaluate.detection import DetectionFigures
from denseclip.evaluate.metrics import ConfusionMatrix
from denseclip.reproduce.claims import chance, check_claims
from denseclip.reproduce.runs import runs_of
from denseclip.reproduce.tables import Table
from reproduce_support import PROTOCOL, counted, finish, grid_runs, grid_table

HIGHER = {"text": "a is above b", "weights": {"a": 1, "b": -1}}


def judged(claim, models=("RN50",), **results):
    """Verdicts of one claim on rows without training."""
    methods = dict.fromkeys(name.rpartition("/")[2] for name in results)
    table = grid_table(methods, [claim], models)
    return check_claims(table, *grid_runs(table, **results))


def test_a_clear_difference_is_held_with_figures_and_interval():
    (claim,) = judged(HIGHER, a=0.1, b=0.3)
    assert claim.held
    assert claim.why == ""
    assert claim.claim == "a is above b (tiny-rn, stickers20)"
    assert claim.figures["difference"] == pytest.approx(claim.figures["a"] - claim.figures["b"], abs=0.011)
    assert 0 < claim.interval[0] < claim.figures["difference"] < claim.interval[1]


def test_the_opposite_is_not_held_and_the_sentence_names_the_classes_that_lose_most():
    (claim,) = judged(HIGHER, a=counted(0.6, only=1), b=0.0)
    assert not claim.held
    assert claim.interval[1] < 0
    assert f"It is {claim.figures['difference']:+.1f} points, where more than none are asked for" in claim.why
    assert "IoU of a is furthest below that of b in dog (-" in claim.why
    assert "cat" not in claim.why


def test_a_difference_within_the_noise_is_not_held_and_said_to_be_so():
    both = [judged(HIGHER, a=a, b=b)[0] for a, b in ((0.3, 0.3001), (0.3001, 0.3))]
    for claim in both:
        assert not claim.held
        assert claim.interval[0] < 0 < claim.interval[1]
    better = max(both, key=lambda claim: claim.figures["difference"])
    assert "the 95 % interval over 60 images decides, and it begins at -" in better.why


def test_classes_that_are_found_no_more_are_counted():
    lost = counted(0.0)
    areas = lost.matrix.per_image.clone()
    areas[:7, 0, 0] = 0
    lost.matrix.load_state_dict({"matrix": lost.matrix.matrix, "per_image": areas})
    (claim,) = judged(HIGHER, a=lost, b=0.0)
    assert "Of 240 times that b finds a class in an image, a misses 7; it adds 0." in claim.why


def test_best_compares_with_the_best_rival_alone():
    claim = {"text": "together most", "weights": {"both": 1, "one": -1, "two": -1}, "best": True}
    (held,) = judged(claim, both=0.05, one=0.2, two=0.3)
    assert held.held
    assert held.figures["difference"] == pytest.approx(held.figures["both"] - held.figures["one"], abs=0.011)
    assert "two" in held.figures
    (lost,) = judged(claim, both=0.25, one=0.2, two=0.5)
    assert not lost.held  # although it is above the mean of its rivals


def test_means_of_groups_are_compared():
    weights = {"blur": 0.5, "defocus": 0.5, "noise": -0.5, "shot": -0.5}
    (held,) = judged(
        {"text": "blur is milder", "weights": weights}, blur=0.1, defocus=0.2, noise=0.3, shot=0.4
    )
    assert held.held
    difference = sum(weight * held.figures[name] for name, weight in weights.items())
    assert held.figures["difference"] == pytest.approx(difference, abs=0.02)


def test_twice_chance_is_asked_for_and_not_just_more_than_chance():
    claim = {"text": "far above chance", "weights": {"a": 1, "chance": -2}}
    (held,) = judged(claim, a=0.3)
    assert held.held
    assert held.figures["chance"] == pytest.approx(100 / 7, abs=0.5)  # 1/4 of the pixels right, of 4 classes
    (lost,) = judged(claim, a=0.7)
    assert lost.figures["a"] > lost.figures["chance"]
    assert not lost.held


def test_chance_is_what_guessing_gives_on_average():
    truth = counted(0.0, images=40).matrix.per_image
    rng = np.random.default_rng(3)
    target = np.random.default_rng(0).integers(0, 4, (40, 10, 10))
    matrix = ConfusionMatrix(4)
    for _ in range(20):
        matrix.update(torch.from_numpy(rng.integers(0, 4, target.shape)), torch.from_numpy(target))
    total = chance(truth).sum(0)
    np.testing.assert_allclose(total[:, 0] / total[:, 1], matrix.iou(), atol=0.01)


def falling(levels, **results):
    claim = {"text": "falls with {kind}", "kind": "falls"}
    named = {name.replace("-", " "): share for name, share in results.items()}
    table = grid_table([], [claim], levels=levels).model_dump(exclude={"methods"})
    table = Table.model_validate({**table, "methods": [{"name": name} for name in named]})
    return check_claims(table, *grid_runs(table, **named))


def test_a_fall_from_level_to_level_is_held_for_each_kind_that_was_run():
    (claim,) = falling((1, 2, 3), **{"clean": 0.1, "spatter-1": 0.15, "spatter-2": 0.2, "spatter-3": 0.3})
    assert claim.held
    assert claim.claim == "falls with spatter (tiny-rn, stickers20)"
    assert list(claim.figures)[:4] == ["clean", "spatter 1", "spatter 2", "spatter 3"]
    difference = claim.figures["clean"] - claim.figures["spatter 3"]
    assert claim.figures["difference"] == pytest.approx(difference, abs=0.011)
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


def test_claims_without_their_rows_or_about_other_models_are_left_out():
    assert judged(HIGHER, a=0.1) == []
    assert judged({**HIGHER, "models": ["ViT-B-16"]}, a=0.1, b=0.2) == []


def test_models_named_in_a_claim_are_compared_with_each_other():
    claim = {"text": "larger is better", "weights": {"RN50x16/a": 1, "RN50/a": -1}}
    (found,) = judged(claim, ("RN50", "RN50x16"), **{"RN50/a": 0.4, "RN50x16/a": 0.2})
    assert found.held
    assert found.claim == "larger is better (stickers20)"
    assert {"RN50/a", "RN50x16/a", "difference"} <= set(found.figures)


# ---- rows that are trained


def trained(claim, seeds, results, figures=()):
    """Verdicts of one claim on rows of stickers20 by name; results: by name, one for each seed made."""
    rows = [
        {"name": name, "method": name, "data": "voc20", "mini": "stickers20-zeroshot", "teacher": not several,
         "seeds": several or 1, "published": {"mIoU": "50.0"}}
        for name, several in seeds.items()
    ]  # fmt: skip
    table = Table.model_validate(
        {"name": "own", "title": "Own", "rows": rows, "claims": [claim], "figures": figures}
    )
    planned = runs_of(table, "mini")
    given = {name: list(several) for name, several in results.items()}
    pick = lambda run: given[run.name].pop(0) if given.get(run.name) else None  # noqa: E731
    return check_claims(table, planned, finish(planned, pick))


def test_the_least_favorable_seeds_decide():
    apart = [counted(0.1), counted(0.2)], [counted(0.3), counted(0.4)]
    (held,) = trained(HIGHER, {"a": 2, "b": 2}, dict(zip("ab", apart, strict=True)))
    worst = apart[0][1].summary()["mIoU"] - apart[1][0].summary()["mIoU"]
    assert held.held
    assert held.figures["difference"] == pytest.approx(worst, abs=0.006)
    assert held.figures["mean difference"] > held.figures["difference"]
    assert held.figures["published"] == 0
    assert "Decided by seeds; seeds: a 2, b 2." in held.rule
    (lost,) = trained(
        HIGHER, {"a": 2, "b": 2}, {"a": [counted(0.1), counted(0.3)], "b": [counted(0.2), counted(0.4)]}
    )
    assert not lost.held
    assert "with the least favorable seeds" in lost.why


def test_a_single_seed_is_decided_by_the_interval_over_images():
    results = {"a": [counted(0.3)], "b": [counted(0.303)]}
    (claim,) = trained({**HIGHER, "above": -1}, {"a": 1, "b": 1}, results)
    assert claim.held == (claim.interval[0] > -1)
    assert "Decided by the interval over images" in claim.rule
    (claim,) = trained({**HIGHER, "above": claim.figures["difference"] - 0.1}, {"a": 1, "b": 1}, results)
    assert not claim.held
    assert "with a single seed the 95 % interval over 60 images decides" in claim.why


def test_paired_rows_are_compared_seed_by_seed():
    results = {"a": [counted(0.1), counted(0.3)], "b": [counted(0.2), counted(0.4)]}
    (claim,) = trained({**HIGHER, "paired": True}, {"a": 2, "b": 2}, results)
    assert claim.held  # although the worst of a is below the best of b


def test_other_metrics_are_resampled_too():
    results = {"a": [counted(0.1)], "b": [counted(0.4)]}
    for metric in ("mIoU(S)", "mIoU(U)", "hIoU", "pAcc", "pAcc(U)", "mAcc", "mAcc(S)"):
        (claim,) = trained({**HIGHER, "metric": metric}, {"a": 1, "b": 1}, results)
        figures = [several[0].summary()[metric] for several in results.values()]
        assert claim.figures["difference"] == pytest.approx(figures[0] - figures[1], abs=0.006)
        assert claim.interval[0] < claim.figures["difference"] < claim.interval[1]


def test_stronger_teachers_have_to_give_stronger_students():
    claim = {"text": "follows", "kind": "follows", "rows": ["a", "b"], "teachers": ["s", "t"]}
    seeds = {"s": 0, "t": 0, "a": 1, "b": 1}
    students = {"a": [counted(0.3)], "b": [counted(0.1)]}
    (held,) = trained(claim, seeds, {"s": [counted(0.4)], "t": [counted(0.2)], **students})
    assert held.held
    assert held.claim == "follows: b above a (stickers20)"
    (lost,) = trained(claim, seeds, {"s": [counted(0.2)], "t": [counted(0.4)], **students})
    assert not lost.held
    (close,) = trained(claim, seeds, {"s": [counted(0.3)], "t": [counted(0.3)], **students})
    assert "teachers cannot be told apart" in close.why


def test_rows_that_have_to_be_close():
    claim = {"text": "close", "kind": "within", "rows": ["a", "b", "c"], "points": 5}
    close = {"a": [counted(0.3)], "b": [counted(0.301)], "c": [counted(0.302)]}
    (held,) = trained(claim, {"a": 1, "b": 1, "c": 1}, close)
    assert held.held
    (lost,) = trained(claim, {"a": 1, "b": 1, "c": 1}, {**close, "c": [counted(0.4)]})
    assert not lost.held
    assert "where less than 5 are asked for" in lost.why
    assert "is above c by" in lost.why


def test_claims_wait_for_rows_that_are_not_made():
    (claim,) = trained(HIGHER, {"a": 2, "b": 1}, {"a": [counted(0.1)]})
    assert claim.held is None
    assert claim.why == "not measured: b not made yet"
    first, second = counted(0.1), counted(0.2)
    (claim,) = trained({**HIGHER, "paired": True}, {"a": 1, "b": 2}, {"a": [first], "b": [None, second]})
    assert claim.why == "not measured: a common seed not made yet"


def test_figures_without_counts_by_image_are_compared_by_seeds():
    ap = lambda *values: [DetectionFigures(PROTOCOL, {"box AP": value}, {}, 5) for value in values]  # noqa: E731
    claim = {**HIGHER, "metric": "box AP"}
    results = {"a": ap(40.0, 44.0), "b": ap(39.0, 41.0)}
    (apart,) = trained(claim, {"a": 2, "b": 2}, results)
    assert (apart.figures["mean difference"], apart.figures["difference"], apart.interval) == (2, -1, (-1, 5))
    assert not apart.held
    (paired,) = trained({**claim, "paired": True}, {"a": 2, "b": 2}, results)
    assert paired.figures["difference"] == 1
    (single,) = trained(claim, {"a": 1, "b": 1}, {"a": ap(40.0), "b": ap(39.0)})
    assert "Decided by a single seed" in single.rule
