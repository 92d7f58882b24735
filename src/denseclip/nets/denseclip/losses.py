"""Pixel losses on maps that are coarser than the labels."""

import torch.nn.functional as F
from torch import Tensor

from denseclip.data.labels import ignore_index
from denseclip.nets.denseclip.fpn import resize


def pixel_cross_entropy(logits: Tensor, labels: Tensor, *, all_pixels: bool = False) -> Tensor:
    """Cross-entropy of logits (B, K, h, w), resized bilinearly, with labels (B, H, W) int64, see `ignore_index`.

    The mean over the pixels that count, 0 where there are none; `all_pixels`: the sum is divided by their number
    with the ignored ones (the official quirk).
    """
    full = resize(logits.float(), (labels.shape[1], labels.shape[2]))  # (B, K, H, W)
    ignored = ignore_index(logits.shape[1])
    total = F.cross_entropy(full, labels, ignore_index=ignored, reduction="sum")
    count = labels.numel() if all_pixels else labels.ne(ignored).sum().clamp_min(1)
    return total / count
