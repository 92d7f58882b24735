"""Counts against the official figures, and what must not change them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from denseclip.errors import UserError
from denseclip.evaluate.metrics import ConfusionMatrix, figure
from fixtures_support import cases


def official_cases():
    for path in cases("maskclip", "*metrics*.npz"):
        with np.load(path) as data:
            for name in sorted({key.rsplit("/", 1)[0] for key in data.files if "/" in key}):
                group = {
                    key.removeprefix(f"{name}/"): data[key]
                    for key in data.files
                    if key.startswith(f"{name}/")
                }
                yield pytest.param(name, group, id=f"{path.stem}-{name}")


@pytest.mark.fixtures
@pytest.mark.parametrize(("name", "case"), list(official_cases()))
def test_equals_the_official_figures(name, case):
    matrix = ConfusionMatrix(len(case["IoU"]))
    for index in range(sum(key.startswith("pred") for key in case)):
        target = torch.from_numpy(case[f"label{index}"])
        if "reduce_zero" in name:
            target = torch.where(target == 0, 255, torch.where(target == 255, 255, target.long() - 1))
        matrix.update(torch.from_numpy(case[f"pred{index}"]), target)
    summary = matrix.summary()
    # float32 of an exact quotient is what the official float32 division gives: no tolerance is needed
    np.testing.assert_array_equal(matrix.iou().float().numpy(), case["IoU"])
    np.testing.assert_array_equal(matrix.accuracy().float().numpy(), case["Acc"])
    np.testing.assert_array_equal(matrix.precision().float().numpy(), case["Prec"])
    assert np.float32(summary["pAcc"]) == case["aAcc"]
    assert np.float32(round(summary["mIoU"] * 100, 2)) == case["mIoU_percent_2dec"]
    assert np.float32(round(summary["mAcc"] * 100, 2)) == case["mAcc_percent_2dec"]


def random_pair(seed, images=7, classes=5):
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(classes, (images, 6, 9), generator=generator)
    target = torch.randint(classes + 1, (images, 6, 9), generator=generator)
    return prediction, torch.where(target == classes, 255, target)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 6), max_size=5), st.booleans())
def test_counts_do_not_depend_on_batches_order_or_dtype(seed, cuts, narrow):
    prediction, target = random_pair(seed)
    whole = ConfusionMatrix(5)
    whole.update(prediction, target)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    parts = ConfusionMatrix(5)
    dtype = torch.uint8 if narrow else torch.int64
    for chunk in torch.tensor_split(order, sorted(set(cuts))):
        parts.update(prediction[chunk].to(dtype), target[chunk].to(dtype))
    assert torch.equal(whole.matrix, parts.matrix)


def test_rows_are_truth_and_the_ignored_are_not_counted():
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([[0, 1, 250]]), torch.tensor([[1, 1, 255]]))
    assert matrix.matrix.tolist() == [[0, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert matrix.matrix.dtype == torch.int64


def test_per_image_counts_follow_the_images_in_any_batching():
    prediction, target = random_pair(3)
    one, batched = ConfusionMatrix(5, per_image=True), ConfusionMatrix(5, per_image=True)
    for p, t in zip(prediction, target, strict=True):
        one.update(p, t)
    batched.update(prediction[:4], target[:4])
    batched.update(prediction[4:], target[4:])
    assert one.per_image.shape == (7, 5, 3)
    assert torch.equal(one.per_image, batched.per_image)
    assert torch.equal(one.matrix, batched.matrix)
    intersection, union, truth = one.per_image.sum(0).unbind(-1)
    assert torch.equal(intersection / union, one.iou().float())
    assert torch.equal(truth, one.matrix.sum(1))


def test_absent_classes_are_nan_and_left_out_of_the_means():
    matrix = ConfusionMatrix(4)
    matrix.update(torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 0, 0, 1]]))
    assert matrix.iou().tolist()[:3] == [2 / 3, 0, 0]
    assert matrix.iou()[3].isnan()
    assert matrix.accuracy()[2:].isnan().all()
    assert matrix.summary() == pytest.approx({"mIoU": 2 / 9, "pAcc": 0.5, "mAcc": 1 / 3})


def test_seen_and_unseen_are_groups_of_one_prediction():
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 1, 2, 2]]))
    found = matrix.summary(unseen=[2])
    groups = {"mIoU": (0.75, 0.5), "pAcc": (1.0, 0.5), "mAcc": (1.0, 0.5)}
    for name, (seen, unseen) in groups.items():
        assert (found[f"{name}(S)"], found[f"{name}(U)"]) == (seen, unseen)
    assert found["hIoU"] == pytest.approx(0.6)
    assert found["mIoU"] == pytest.approx(2 / 3)
    assert set(matrix.summary()) == set(matrix.summary(unseen=[0, 1, 2])) == {"mIoU", "pAcc", "mAcc"}


@pytest.mark.parametrize(
    ("prediction", "target", "words"),
    [
        ([[7]], [[0]], "prediction has class id 7"),
        ([[0]], [[9]], "mask has class id 9"),
        ([[0]], [[-1]], "id -1"),
    ],
)
def test_ids_out_of_range_are_named(prediction, target, words):
    matrix = ConfusionMatrix(3)
    with pytest.raises(UserError, match=words):
        matrix.update(torch.tensor(prediction), torch.tensor(target))
    assert matrix.matrix.sum() == 0


def test_a_resumed_count_equals_an_uninterrupted_one():
    prediction, target = random_pair(8)
    whole, first, resumed = (ConfusionMatrix(5, per_image=True) for _ in range(3))
    whole.update(prediction, target)
    first.update(prediction[:3], target[:3])
    resumed.load_state_dict(first.state_dict())
    resumed.update(prediction[3:], target[3:])
    assert torch.equal(whole.matrix, resumed.matrix)
    assert torch.equal(whole.per_image, resumed.per_image)
    with pytest.raises(UserError, match="do not fit"):
        ConfusionMatrix(4, per_image=True).load_state_dict(first.state_dict())
    with pytest.raises(UserError, match="do not fit"):
        ConfusionMatrix(5).load_state_dict(first.state_dict())


def test_merge_adds_the_counts():
    prediction, target = random_pair(9)
    whole, left, right = (ConfusionMatrix(5, per_image=True) for _ in range(3))
    whole.update(prediction, target)
    left.update(prediction[:2], target[:2])
    right.update(prediction[2:], target[2:])
    left.merge(right)
    assert torch.equal(left.matrix, whole.matrix)
    assert torch.equal(left.per_image, whole.per_image)


def test_the_harmonic_mean_is_the_papers_and_zero_of_two_zeros():
    def harmonic(seen, unseen):
        """Of a seen and an unseen class with these IoUs."""
        areas = np.array([[[[seen, 1000.0, 1000.0], [unseen, 1000.0, 1000.0]]]])
        return figure("hIoU", 2, [1])(areas).item()

    assert round(harmonic(888, 861) * 100, 2) == 87.43  # the paper's Table 1, VOC: 87.4
    assert harmonic(0, 0) == 0.0
    nothing = figure("hIoU", 2, [1])(np.zeros((1, 1, 2, 3))).item()
    assert np.isnan(nothing)
