"""Two results on the same images."""

import json

import numpy as np
import pytest
import torch
from test_result import PROTOCOL

from denseclip.errors import UserError
from denseclip.evaluate.metrics import ConfusionMatrix
from denseclip.evaluate.result import Protocol, Result, compare


def guesses(right, seed, model, unseen=(2, 3), skipped=(), **changes):
    """40 images of which a share of `right` pixels is right."""
    rng, matrix = np.random.default_rng(seed), ConfusionMatrix(4, per_image=True)
    for image in range(40):
        truth = np.random.default_rng(image).integers(0, 4, (8, 8))
        wrong = (truth + rng.integers(1, 4, truth.shape)) % 4
        guess = np.where(rng.random(truth.shape) < right, truth, wrong)
        matrix.update(torch.from_numpy(guess), torch.from_numpy(truth))
    protocol = Protocol(**{**PROTOCOL.to_dict(), "model": model, **changes})
    return Result(protocol, matrix, ("a", "b", "c", "d"), unseen, list(skipped))


def test_a_difference_is_told_from_chance():
    good, bad, equal = guesses(0.8, 1, "good"), guesses(0.6, 2, "bad"), guesses(0.8, 3, "equal")
    found = compare(good, bad)
    assert set(found.differences) == {"mIoU", "mIoU(S)", "mIoU(U)"}
    assert all(one.significant and one.low > 0 for one in found.differences.values())
    expected = good.summary()["mIoU(U)"] - bad.summary()["mIoU(U)"]
    assert found.differences["mIoU(U)"].value * 100 == pytest.approx(expected)
    assert not compare(good, equal).differences["mIoU"].significant
    assert set(compare(guesses(0.8, 1, "x", unseen=()), guesses(0.8, 2, "y", unseen=())).differences) == {
        "mIoU"
    }


def test_files_hold_both_models():
    found = compare(guesses(0.8, 1, "good"), guesses(0.6, 2, "bad"))
    content = json.loads(found.to_json())
    assert [model["model"] for model in content["models"]] == ["good", "bad"]
    difference = content["differences"]["mIoU"]
    assert difference["low"] < difference["value"] < difference["high"]
    lines = found.to_csv().splitlines()
    assert lines[0] == "class,first,second"
    assert len(lines) == 5
    assert found.to_json() == compare(guesses(0.8, 1, "good"), guesses(0.6, 2, "bad")).to_json()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": "train"}, r"not of the same images \(other split\)"),
        ({"contents": "9" * 12}, r"\(other contents\)"),
        ({"corruption": ("spatter", 1)}, r"\(other corruption\)"),
        ({"skipped": ["x.png"]}, "skipped different images"),
    ],
)
def test_other_images_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        compare(guesses(0.8, 1, "a"), guesses(0.8, 1, "b", **changes))
