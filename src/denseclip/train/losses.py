"""Losses at label size, one picture at a time: the upsampled scores of a batch are never held together."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from denseclip.data.specs import IGNORE
from denseclip.errors import UserError

Average = Literal["official", "valid"]
Where = Literal["not ignored", "unlabeled"]
Cut = tuple[slice, slice]  # pictures, channels

CHANNELS = 64  # features upsampled together


class SegmentationSums(NamedTuple):
    """Sums over the pixels of a batch, so that parts of a batch can be added up before they are averaged.

    loss: cross entropy of the labeled pixels, with gradient. labeled, correct: pixels with a label, and those
    whose best class it is. pixels: all, ignored ones too.
    """

    loss: Tensor
    labeled: Tensor
    correct: Tensor
    pixels: int

    def mean(self, average: Average = "official") -> Tensor:
        """The loss: over all pixels ("official", so its size follows the labeled share) or the labeled ones.

        0 without any label. Raises UserError for another average.
        """
        if average not in get_args(Average):
            raise UserError(f"loss average {average!r} is unknown; choose official or valid")
        return self.loss / (self.pixels if average == "official" else self.labeled.clamp(min=1))

    @property
    def accuracy(self) -> Tensor:
        """Percent of all pixels whose best class is their label: the official `acc_seg`; ignored ones are wrong."""
        return 100 * self.correct / self.pixels


def segmentation_sums(logits: Tensor, labels: Tensor) -> SegmentationSums:
    """Cross entropy of logits upsampled bilinearly (align_corners=False) to the labels' size.

    logits: (B, K, h, w), in any float type; the arithmetic is float32. labels: (B, H, W) integers, class or 255.
    """
    assert labels.dim() == 3 and len(labels) == len(logits), (logits.shape, labels.shape)
    labels = labels.long()
    size = (labels.shape[1], labels.shape[2])

    def of_picture(picture: Tensor, cut: Cut) -> tuple[Tensor, Tensor]:
        full = F.interpolate(picture, size, mode="bilinear")  # (1, K, H, W)
        loss = F.cross_entropy(full, labels[cut[0]], ignore_index=IGNORE, reduction="sum")
        return loss, (full.detach().argmax(1) == labels[cut[0]]).sum()

    cuts = [(slice(i, i + 1), slice(None)) for i in range(len(logits))]
    loss, correct = _Streamed.apply(logits, cuts, of_picture)
    return SegmentationSums(loss, (labels != IGNORE).sum(), correct, labels.numel())


def feature_distillation(
    student: Tensor, teacher: Tensor, gt: Tensor, *, where: Where = "not ignored"
) -> Tensor:
    """Mean L1 distance of student and teacher features, both upsampled bilinearly to the labels' size.

    student: (B, D, h, w), with gradient; the official code detaches it, and so trains nothing by it. teacher:
    (B, D, h', w') of norm 1. gt: (B, H, W) before pseudo labels. where: pixels that are "not ignored" (not 255)
    or "unlabeled" (-1). Returns the mean over these pixels and all channels, 0 without any.
    """
    assert student.shape[:2] == teacher.shape[:2], (student.shape, teacher.shape)
    used = gt != IGNORE if where == "not ignored" else gt < 0  # (B, H, W)
    size = (gt.shape[1], gt.shape[2])

    def of_channels(channels: Tensor, cut: Cut) -> tuple[Tensor, Tensor]:
        theirs = F.interpolate(teacher[cut].detach().float(), size, mode="bilinear")  # (1, c, H, W)
        distance = (F.interpolate(channels, size, mode="bilinear") - theirs).abs()
        total = (distance * used[cut[0], None]).sum()
        return total, total.new_zeros(())

    cuts = [
        (slice(i, i + 1), slice(first, first + CHANNELS))
        for i in range(len(student))
        for first in range(0, student.shape[1], CHANNELS)
    ]
    total, _ = _Streamed.apply(student, cuts, of_channels)
    return total / (used.sum().clamp(min=1) * student.shape[1])


class _Streamed(torch.autograd.Function):
    """A sum of terms that each need only one cut of x; each one's gradient is taken as soon as it is computed.

    `terms(x[cut], cut)` gives a term and a count that goes with it, which is added up too.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        cuts: list[Cut],
        terms: Callable[[Tensor, Cut], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(x) if wanted else None
        total, count = (
            x.new_zeros((), dtype=torch.float32),
            torch.zeros((), dtype=torch.int64, device=x.device),
        )
        for cut in cuts:
            with torch.set_grad_enabled(wanted), torch.autocast(x.device.type, enabled=False):
                part = x[cut].detach().to(torch.promote_types(x.dtype, torch.float32)).requires_grad_(wanted)
                term, more = terms(part, cut)
            if gradient is not None:
                gradient[cut] = torch.autograd.grad(term, part)[0].to(x.dtype)
            total, count = total + term.detach(), count + more.to(count.dtype)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(count)
        return total, count

    @staticmethod
    def backward(ctx: Any, outer: Tensor, _: Tensor) -> tuple[Tensor | None, None, None]:  # noqa: ANN401
        (gradient,) = ctx.saved_tensors
        return gradient * outer.to(gradient.dtype), None, None
