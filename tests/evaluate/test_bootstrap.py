"""The interval of a difference against a plain loop, and its coverage of plain cases."""

import numpy as np
import pytest
import torch

from denseclip.evaluate.metrics import ConfusionMatrix, contrast, figure


def counted(seed, images, wrong):
    """Per-image counts of a model that errs at `wrong` of the pixels, on images fixed by `seed`."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 4, (images, 12, 12))
    noise = np.random.default_rng(int(wrong * 1000))
    prediction = np.where(noise.random(target.shape) < wrong, noise.integers(0, 4, target.shape), target)
    matrix = ConfusionMatrix(4, per_image=True)
    matrix.update(torch.from_numpy(prediction), torch.from_numpy(target))
    return matrix


def difference(first, second, **options):
    return contrast([first, second], [1.0, -1.0], **options)


def test_equals_a_plain_loop_over_resampled_totals():
    a, b = counted(1, 20, 0.2), counted(1, 20, 0.3)
    rng = np.random.default_rng(5)
    loop = []
    for _ in range(300):
        draw = rng.multinomial(20, np.full(20, 1 / 20))
        totals = [(m.per_image.numpy() * draw[:, None, None]).sum(0) for m in (a, b)]
        loop.append(np.subtract(*[np.mean(t[:, 0] / t[:, 1]) for t in totals]))
    found = difference(a.per_image, b.per_image, n=300, seed=5)
    np.testing.assert_allclose([found.low, found.high], np.percentile(loop, [2.5, 97.5]), rtol=1e-12)
    np.testing.assert_allclose(found.value, a.summary()["mIoU"] - b.summary()["mIoU"], rtol=1e-12)


def test_a_model_does_not_differ_from_itself():
    counts = counted(2, 15, 0.3).per_image
    found = difference(counts, counts, n=100)
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert not found.significant


def test_a_clear_difference_is_significant_and_signed():
    good, bad = counted(3, 30, 0.1).per_image, counted(3, 30, 0.5).per_image
    assert difference(good, bad).low > 0
    assert difference(bad, good).high < 0


def test_same_seed_same_interval_and_groups_of_classes():
    a, b = counted(4, 20, 0.2), counted(4, 20, 0.3)
    assert difference(a.per_image, b.per_image, seed=1) == difference(a.per_image, b.per_image, seed=1)
    group = difference(a.per_image, b.per_image, of=figure("mIoU(U)", 4, [2, 3]))
    np.testing.assert_allclose(
        group.value, a.summary([2, 3])["mIoU(U)"] - b.summary([2, 3])["mIoU(U)"], rtol=1e-12
    )


def test_images_without_any_class_do_not_break_the_mean():
    counts = counted(5, 3, 0.2).per_image.clone()
    counts[:2] = 0
    found = difference(counts, counts, n=50)
    assert np.isfinite([found.value, found.low, found.high]).all()


def test_a_class_that_no_drawn_image_has_does_not_count_as_zero():
    """Class 1 is labeled in one image of twenty, and wrongly found, a little, in the others."""
    areas = torch.zeros(20, 2, 3, dtype=torch.int64)
    areas[:, 0] = torch.tensor([100, 100, 100])
    areas[0, 1] = torch.tensor([100, 100, 100])
    areas[1:, 1] = torch.tensor([0, 1, 0])
    found = contrast([areas], [1.0])
    assert found.value == pytest.approx((1 + 100 / 119) / 2)
    assert found.low > 0.85
