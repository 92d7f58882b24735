"""Boxes teach the score map (section 3.4; the target is built from boxes only, masks or not)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from denseclip.nets.denseclip.fpn import resize
from denseclip.nets.detection.instances import Instances

STRIDE = 4


def box_target(instances: Sequence[Instances], classes: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Targets (B, K, h, w) and where they count (B, 1, h, w), both float 0 or 1, on the grid of stride 4.

    size: (h, w) of that grid. A box marks the cells from its truncated start to its truncated end, exclusive, clamped
    to the last row and column, which so are never marked; boxes below 4 pixels may mark nothing.
    """
    device = instances[0].boxes.device
    target = torch.zeros(len(instances), classes, *size, device=device)
    counts = torch.zeros(len(instances), 1, *size, device=device)
    limit = torch.tensor([size[1], size[0]] * 2, device=device) - 1
    for i, one in enumerate(instances):
        cells = (one.boxes / STRIDE).long().clamp_min(0).minimum(limit)
        for (x0, y0, x1, y1), label in zip(cells.tolist(), one.labels.tolist(), strict=True):
            target[i, label, y0:y1, x0:x1] = 1
            counts[i, :, y0:y1, x0:x1] = 1
    return target, counts


def score_map_loss(scores: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Binary cross-entropy of s / tau (B, K, h, w), enlarged bilinearly, over all classes inside the boxes.

    The mean over those cells and classes; 0 (with gradient 0) where no box marks any, which officially is not a
    number. In the logits' form, equal to that of the probabilities and safe in half precision.
    """
    full = resize(scores.float(), (target.shape[2], target.shape[3]))  # (B, K, h, w)
    total = F.binary_cross_entropy_with_logits(full, target, weight=counts, reduction="sum")
    return total / (counts.sum() * target.shape[1]).clamp_min(1)
