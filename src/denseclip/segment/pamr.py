"""Pixel-adaptive mask refinement: scores follow the colors of the picture (Araslanov & Roth, CVPR 2020)."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

DILATIONS = (8, 16)  # of NACLIP, SC-CLIP and ResCLIP; the original has (1, 2, 4, 8, 12, 24)
STEPS = 10
MOST_SCORES = 1 << 22  # scores of classes that are refined together
CACHED = 8  # classes that a CPU's cache holds while all steps are made
OFFSETS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx)


@torch.no_grad()
def pamr(
    scores: Tensor, guide: Tensor, *, dilations: tuple[int, ...] = DILATIONS, steps: int = STEPS
) -> Tensor:
    """Scores (B, C, h, w) that follow a picture (B, 3, H, W), at its size, float32.

    Linear, and the same for every class whichever others there are; no more than `MOST_SCORES` at a time are worked
    on beside the input and the result. An affine change of the guide's channels changes nothing. Scores of another
    size are resized bilinearly, with aligned corners, as in the official code.
    """
    weights = pamr_weights(guide, dilations)  # (B, P, H, W)
    size = (guide.shape[2], guide.shape[3])
    several = max(1, MOST_SCORES // (len(guide) * size[0] * size[1]))
    parts = []
    for part in scores.float().split(several, dim=1):
        if part.shape[2:] != guide.shape[2:]:
            part = F.interpolate(part, size, mode="bilinear", align_corners=True)
        parts.append(pamr_steps(part, weights, dilations, steps))
    return torch.cat(parts, dim=1)


def pamr_weights(guide: Tensor, dilations: tuple[int, ...] = DILATIONS) -> Tensor:
    """How much each of the P = 8 neighbors a dilation counts at every pixel of (B, 3, H, W): (B, P, H, W), sum 1.

    Soft-max of minus the mean over channels of |center - neighbor| / (0.1 std); the standard deviation is unbiased,
    over all neighbors, and the center once a dilation. The center itself has no weight.
    """
    guide = guide.float()
    count = 9 * len(dilations)
    mean = guide * len(dilations)
    for near in _neighbors(guide, dilations):
        mean = mean + near
    mean = mean / count
    square = (guide - mean).square() * len(dilations)
    for near in _neighbors(guide, dilations):
        square += (near - mean).square()
    scale = 1 / (1e-8 + 0.1 * (square / (count - 1)).sqrt())  # (B, 3, H, W)
    far = [((guide - near).abs() * scale).mean(1) for near in _neighbors(guide, dilations)]  # P x (B, H, W)
    return torch.stack(far, dim=1).neg_().softmax(1)


def pamr_steps(scores: Tensor, weights: Tensor, dilations: tuple[int, ...], steps: int) -> Tensor:
    """Scores (B, C, H, W), each step the weighted mean of the neighbors (B, P, H, W), `steps` times."""
    parts = []
    for part in scores.split(len(scores[0]) if scores.is_cuda else CACHED, dim=1):
        for _ in range(steps):
            total = torch.zeros_like(part)
            for place, near in enumerate(_neighbors(part, dilations)):
                total.addcmul_(near, weights[:, place, None])
            part = total
        parts.append(part)
    return torch.cat(parts, dim=1)


def _neighbors(maps: Tensor, dilations: tuple[int, ...]) -> Iterator[Tensor]:
    """The maps (B, C, H, W) moved to every neighbor in turn, the outermost pixels repeated; views."""
    height, width = maps.shape[2:]
    reach = max(dilations)
    padded = F.pad(maps, (reach,) * 4, mode="replicate")
    for dilation in dilations:
        for dy, dx in OFFSETS:
            top, left = reach + dy * dilation, reach + dx * dilation
            yield padded[:, :, top : top + height, left : left + width]
