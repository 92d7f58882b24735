"""Cross entropy and distillation at label size: values and gradients of the plain formulas, edge cases."""

import pytest
import torch
import torch.nn.functional as F

from denseclip.errors import UserError
from denseclip.train.pseudo_labels import feature_distillation, segmentation_sums


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 6, 7, generator=random, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, 5, (3, 31, 40), generator=random)
    labels[:, :, :9] = 255
    return logits, labels


def plain(logits, labels):
    full = F.interpolate(logits, labels.shape[1:], mode="bilinear")
    return F.cross_entropy(full, labels, ignore_index=255, reduction="none"), full


def test_official_average_is_over_all_pixels(batch):
    logits, labels = batch
    loss = segmentation_sums(logits, labels).mean("official")
    expected = plain(logits, labels)[0].mean()
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(value, logits)[0] for value in (loss, expected))
    torch.testing.assert_close(ours, theirs)


def test_valid_average_is_over_labeled_pixels(batch):
    logits, labels = batch
    loss = segmentation_sums(logits, labels).mean("valid")
    expected = plain(logits, labels)[0][labels != 255].mean()
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(3 * value, logits)[0] for value in (loss, expected))
    torch.testing.assert_close(ours, theirs)


def test_accuracy_counts_ignored_pixels_as_wrong(batch):
    logits, labels = batch
    right = plain(logits, labels)[1].argmax(1) == labels
    assert segmentation_sums(logits, labels).accuracy.item() == pytest.approx(
        100 * right.double().mean().item()
    )


def test_parts_of_a_batch_add_up(batch):
    logits, labels = batch
    labels[0, :20] = 255
    whole = segmentation_sums(logits, labels)
    parts = [segmentation_sums(logits[i : i + 1], labels[i : i + 1]) for i in range(3)]
    total = sum(part.loss for part in parts) / sum(part.labeled for part in parts)
    torch.testing.assert_close(total, whole.mean("valid"))


@pytest.mark.parametrize("average", ["official", "valid"])
def test_without_a_label_the_loss_is_zero(batch, average):
    logits, labels = batch
    loss = segmentation_sums(logits, torch.full_like(labels, 255)).mean(average)
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()


def test_16_bit_logits_are_computed_in_32(batch):
    logits, labels = batch
    rounded = logits.detach().bfloat16()
    loss = segmentation_sums(rounded.requires_grad_(), labels).mean()
    loss.backward()
    torch.testing.assert_close(loss, plain(rounded.float(), labels)[0].mean())
    assert rounded.grad.dtype == torch.bfloat16 and rounded.grad.abs().max() > 0


def test_without_gradient(batch):
    logits, labels = batch
    with torch.no_grad():
        loss = segmentation_sums(logits, labels).mean()
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain(logits, labels)[0].mean())


@pytest.mark.parametrize("where", ["not ignored", "unlabeled"])
def test_distillation_has_a_gradient(where):
    random = torch.Generator().manual_seed(1)
    student = torch.randn(2, 100, 4, 5, generator=random, dtype=torch.float64).requires_grad_()
    teacher = F.normalize(torch.randn(2, 100, 3, 3, generator=random, dtype=torch.float64), dim=1)
    gt = torch.randint(0, 3, (2, 17, 23), generator=random)
    gt[:, 5:9], gt[0, 12:] = -1, 255
    loss = feature_distillation(student, teacher, gt, where=where)
    used = gt != 255 if where == "not ignored" else gt < 0
    full = [F.interpolate(x, (17, 23), mode="bilinear").permute(0, 2, 3, 1)[used] for x in (student, teacher)]
    expected = F.l1_loss(*full)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-7)
    ours, theirs = (torch.autograd.grad(value, student)[0] for value in (loss, expected))
    assert theirs.abs().max() > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


def test_distillation_without_a_pixel():
    student = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = feature_distillation(student, torch.randn(1, 3, 2, 2), torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss == 0 and (student.grad == 0).all()


def test_unknown_average(batch):
    with pytest.raises(UserError, match="loss average 'sum' is unknown; choose official or valid"):
        segmentation_sums(*batch).mean("sum")
