"""Evaluations: what is counted, what is skipped, and how an interrupted one continues."""

import numpy as np
import pytest
import torch

from denseclip.data.datasets import SegmentationDataset
from denseclip.data.opening import open_dataset
from denseclip.errors import UserError
from denseclip.evaluate.metrics import ConfusionMatrix
from denseclip.evaluate.run import evaluate
from own_data import tiny_segmenter, write_own_data


@pytest.fixture
def dataset(tmp_path):
    return open_dataset(write_own_data(tmp_path / "own", unseen=["dog"]))


@pytest.fixture
def segmenter(dataset):
    return tiny_segmenter(dataset.spec)


class Interrupted(BaseException):
    pass


def interrupt_at(image):
    def progress(done, total):
        if done == image:
            raise Interrupted

    return progress


def test_counts_are_those_of_a_plain_loop(dataset, segmenter):
    expected = np.zeros((3, 3), np.int64)
    for sample in dataset:
        predicted, counted = segmenter.segment(sample.image).mask, sample.mask != 255
        np.add.at(expected, (sample.mask[counted], predicted[counted]), 1)
    result = evaluate(segmenter, dataset)
    np.testing.assert_array_equal(result.matrix.matrix.numpy(), expected)
    assert (result.images, result.skipped) == (5, [])
    assert result.matrix.per_image[..., 2].sum() == expected.sum()
    assert result.classes == ("sky", "cat", "dog")
    assert result.unseen == (2,)


def test_order_does_not_matter(dataset, segmenter):
    backwards = SegmentationDataset(dataset.spec, dataset.split, dataset.entries[::-1])
    one, two = evaluate(segmenter, dataset), evaluate(segmenter, backwards)
    assert torch.equal(one.matrix.matrix, two.matrix.matrix)
    assert torch.equal(one.matrix.per_image, two.matrix.per_image.flip(0))


def test_an_interrupted_evaluation_continues_to_the_same_result(dataset, segmenter, tmp_path, monkeypatch):
    state = tmp_path / "counts.pt"
    expected = evaluate(segmenter, dataset).to_json()
    with pytest.raises(Interrupted):
        evaluate(segmenter, dataset, state=state, progress=interrupt_at(2))
    run, begin = [], segmenter.begin
    monkeypatch.setattr(segmenter, "begin", lambda pictures: run.extend(pictures) or begin(pictures))
    seen = []
    result = evaluate(segmenter, dataset, state=state, progress=lambda *step: seen.append(step))
    assert result.to_json() == expected
    assert len(run) == 3
    assert seen == [(2, 5), (3, 5), (4, 5), (5, 5)]
    assert evaluate(segmenter, dataset, state=state).to_json() == expected
    assert len(run) == 3


def test_an_interruption_within_an_image_leaves_no_half_counts(dataset, segmenter, tmp_path, monkeypatch):
    """It falls between the two lines that count an image."""
    state = tmp_path / "counts.pt"
    expected = evaluate(segmenter, dataset).to_json()
    with pytest.raises(Interrupted):
        evaluate(segmenter, dataset, state=state, progress=interrupt_at(2))

    def half(self, other):
        self.matrix += other.matrix
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(ConfusionMatrix, "merge", half)
        with pytest.raises(Interrupted):
            evaluate(segmenter, dataset, state=state)
    assert evaluate(segmenter, dataset, state=state).to_json() == expected


def test_a_state_of_another_evaluation_is_refused(dataset, segmenter, tmp_path):
    state = tmp_path / "counts.pt"
    evaluate(segmenter, dataset, state=state)
    other = tiny_segmenter(dataset.spec, refine="pd")
    with pytest.raises(
        UserError, match=r"counts.pt belongs to another evaluation \(other prompt denoising\)"
    ):
        evaluate(other, dataset, state=state)
    with pytest.raises(UserError, match=r"\(other images, contents\)"):
        evaluate(segmenter, dataset, state=state, limit=3)
    with pytest.raises(UserError, match=r"\(other corruption\)"):
        evaluate(
            segmenter, dataset, state=state, change=lambda sample: sample.image, corruption=("spatter", 1)
        )


@pytest.mark.parametrize("damage", [b"", b"no zip", None])
def test_a_damaged_state_is_refused(dataset, segmenter, tmp_path, damage):
    state = tmp_path / "counts.pt"
    evaluate(segmenter, dataset, state=state)
    state.write_bytes(state.read_bytes()[:200] if damage is None else damage)
    with pytest.raises(UserError, match=r"cannot continue from .*counts.pt .*damaged.*: remove it") as caught:
        evaluate(segmenter, dataset, state=state)
    assert "\n" not in str(caught.value)


def test_bad_images_stop_or_are_listed(dataset, segmenter, tmp_path):
    (tmp_path / "own/images/1.png").write_bytes(b"\x89PNG broken")
    (tmp_path / "own/masks/3.png").unlink()
    with pytest.raises(UserError, match=r"images/1.png"):
        evaluate(segmenter, dataset)
    state = tmp_path / "counts.pt"
    result = evaluate(segmenter, dataset, skip_bad=True, state=state)
    assert result.images == 3
    assert [name in line for name, line in zip(("1.png", "3.png"), result.skipped, strict=True)] == [
        True,
        True,
    ]
    with pytest.raises(UserError, match="left out 2 bad images"):
        evaluate(segmenter, dataset, state=state)


def test_no_usable_image_is_an_error(dataset, segmenter, tmp_path):
    for index in range(5):
        (tmp_path / f"own/masks/{index}.png").unlink()
    with pytest.raises(UserError, match=r"none of 5 images of noise can be used; the first: no mask .*0.png"):
        evaluate(segmenter, dataset, skip_bad=True)


def test_limit_takes_the_first_images(dataset, segmenter):
    result = evaluate(segmenter, dataset, limit=2)
    assert (result.images, result.protocol.images) == (2, 2)
    assert torch.equal(result.matrix.per_image, evaluate(segmenter, dataset).matrix.per_image[:2])
    assert evaluate(segmenter, dataset, limit=99).images == 5


def test_a_change_is_run_in_place_of_the_picture(dataset, segmenter):
    seen = []

    def darkened(sample):
        seen.append(sample.image_id)
        return sample.image // 4

    changed = evaluate(segmenter, dataset, change=darkened, corruption=("darkness", 2))
    assert sorted(seen) == ["0", "1", "2", "3", "4"]
    predicted = segmenter.segment(dataset[0].image // 4).mask[dataset[0].mask != 255]
    truth = dataset[0].mask[dataset[0].mask != 255]
    assert changed.matrix.per_image[0, :, 0].sum() == (predicted == truth).sum()
    assert changed.protocol.describe()["corruption"] == "darkness, level 2"
    assert evaluate(segmenter, dataset).protocol.describe()["corruption"] == "none"


def test_a_background_rule_takes_the_place_of_the_background_class(tmp_path):
    """Wherever that class stands in the data set, and whatever it is called there."""
    dataset = open_dataset(write_own_data(tmp_path / "own", background="cat"))
    assert dataset.spec.background == 1
    segmenter = tiny_segmenter(dataset.spec, background=["sky blue", "wall"])
    assert segmenter.classes == ("background", "sky", "dog")
    ids = np.array([1, 0, 2])  # of the data set
    expected = np.zeros((3, 3), np.int64)
    for sample in dataset:
        predicted, counted = ids[segmenter.segment(sample.image).mask], sample.mask != 255
        np.add.at(expected, (sample.mask[counted], predicted[counted]), 1)
    np.testing.assert_array_equal(evaluate(segmenter, dataset).matrix.matrix.numpy(), expected)


def test_a_background_rule_needs_a_background_class(dataset):
    with pytest.raises(UserError, match="noise has no background class: leave out the background words"):
        tiny_segmenter(dataset.spec, threshold=0.3)


def test_many_classes_are_counted(tmp_path):
    """Above 255 classes ids need more than a byte."""
    classes = {str(k): f"thing number {k}" for k in range(300)}
    dataset = open_dataset(write_own_data(tmp_path / "own", images=2, classes=classes, ignore=65535))
    result = evaluate(tiny_segmenter(dataset.spec), dataset)
    assert result.matrix.matrix.sum() == 2 * 48 * 64  # 255 is a class here
    assert result.matrix.matrix.sum(1)[255] > 0
