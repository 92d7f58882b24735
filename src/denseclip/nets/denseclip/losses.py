"""Pixel losses on maps that are coarser than the labels."""

import torch.nn.functional as F
from torch import Tensor

from denseclip.nets.denseclip.fpn import resize

IGNORE = 255


def pixel_cross_entropy(logits: Tensor, labels: Tensor, *, all_pixels: bool = False) -> Tensor:
    """Cross-entropy of logits (B, K, h, w), resized bilinearly, with labels (B, H, W) int64; 255 is ignored.

    The mean over the pixels that count, 0 where there are none; `all_pixels`: the sum is divided by their number
    with the ignored ones (the official quirk).
    """
    full = resize(logits.float(), (labels.shape[1], labels.shape[2]))  # (B, K, H, W)
    total = F.cross_entropy(full, labels, ignore_index=IGNORE, reduction="sum")
    count = labels.numel() if all_pixels else labels.ne(IGNORE).sum().clamp_min(1)
    return total / count
