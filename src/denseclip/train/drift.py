"""Noticing, without ground truth, that self-training runs away (the paper stops such runs: section 4.2)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

FEWER_CLASSES = 0.7  # of the effective number at the end of guidance
LESS_AGREEMENT = 0.9  # of the agreement at the end of guidance; it rises where self-training works


def watch(
    predicted: Tensor, believed: Tensor, hidden: Tensor, classes: int, candidates: Sequence[int]
) -> dict[str, float]:
    """Figures of predictions on pictures set aside.

    predicted: (N, H, W) classes. believed: (N, H, W), the annotation where there is one, the teacher's labels where
    it is hidden, outside 0..classes-1 where nothing is known. hidden: (N, H, W) bool. candidates: the classes that
    hidden pixels can be of.
    Returns score: mean IoU of predicted and believed; agreement: the same where hidden; classes: effective number
    of candidates predicted where hidden, the exponential of their entropy; that other classes die out there is no
    drift.
    """
    known = (believed >= 0) & (believed < classes)
    counts = torch.bincount(predicted[hidden & known], minlength=classes).double()[list(candidates)]
    shares = counts[counts > 0] / counts.sum().clamp_min(1)
    return {
        "score": _mean_iou(predicted[known], believed[known], classes),
        "agreement": _mean_iou(predicted[hidden & known], believed[hidden & known], classes),
        "classes": float((-(shares * shares.log()).sum()).exp()) if len(shares) else 0.0,
    }


def verdict(before: Mapping[str, float], now: Mapping[str, float]) -> str | None:
    """What is wrong with self-training, if anything is; `before`: figures at the end of guidance."""
    if now["classes"] < FEWER_CLASSES * before["classes"]:
        return (
            f"self-training drifts: it predicts {now['classes']:.1f} classes in effect, "
            f"{before['classes']:.1f} when it began"
        )
    if now["agreement"] < LESS_AGREEMENT * before["agreement"]:
        return (
            f"self-training drifts: mIoU against the teacher's labels fell from {before['agreement']:.2f} "
            f"to {now['agreement']:.2f}"
        )
    return None


def _mean_iou(first: Tensor, second: Tensor, classes: int) -> float:
    """Mean over the classes that occur in either; both (M,) int64."""
    counts = torch.bincount(first * classes + second, minlength=classes**2).view(classes, classes).double()
    both = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - both
    return float((both[union > 0] / union[union > 0]).mean()) if (union > 0).any() else 0.0
