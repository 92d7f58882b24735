"""Cleaning up scores: prompt denoising, then key smoothing, at map resolution (MaskCLIP, ECCV 2022); and PAMR, in
which scores follow the colors of the picture (pixel-adaptive mask refinement, Araslanov & Roth, CVPR 2020).
"""

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from denseclip.errors import UserError
from denseclip.segment.resample import wide

REMOVED = -100.0  # score of a class that prompt denoising took out; cosines are within -1..1


@torch.no_grad()
def prompt_denoising(
    scores: Tensor, threshold: float, *, temperature: float = 100.0, keep_best: bool = True
) -> Tensor:
    """Take out classes that are nowhere in the picture likely.

    A class whose probability (soft-max over classes of `temperature` x score) stays below `threshold` at all
    positions gets the score -100 everywhere.

    Args:
        scores: (N, K, h, w) cosines; each picture is judged by itself.
        threshold: probability in 0..1; the paper's is 0.5; 0 takes nothing out.
        temperature: of the soft-max.
        keep_best: where every class of a picture is below the threshold, keep the likeliest one. The official
            code (False) takes out all of them, and class 0 wins everywhere.

    Returns (N, K, h, w), float32 where scores were 16-bit. Raises UserError for a threshold outside 0..1.
    """
    _check("prompt denoising", threshold)
    scores = wide(scores)
    confidence = (temperature * scores).softmax(1).amax((2, 3))  # (N, K)
    removed = confidence < threshold
    if keep_best:
        removed.scatter_(1, confidence.argmax(1, keepdim=True), False)
    return scores.masked_fill(removed[:, :, None, None], REMOVED)


@torch.no_grad()
def key_smoothing(
    scores: Tensor,
    keys: Tensor,
    threshold: float,
    *,
    norm: Literal["positions", "channels"] = "positions",
    temperature: float = 100.0,
) -> Tensor:
    """Let positions with similar keys vote on unsure positions.

    p = soft-max over classes of `temperature` x score; a position where no class reaches `threshold` gets
    sum_j (k_i . k_j) p_j over all positions j, itself included, with normalized keys k; the others keep p.

    Args:
        scores: (N, K, h, w) cosines, or what prompt denoising left of them.
        keys: (N, hw, E) keys of the last attention layer.
        threshold: probability in 0..1; the official 1 smooths wherever the soft-max is not exactly 1; 0 is off
            and returns the scores as they are.
        norm: "positions", the official code, normalizes each channel over all positions; "channels", the
            paper's formula, each key over its channels, so that k_i . k_j is their cosine.
        temperature: of the soft-max.

    Returns (N, K, h, w) float32: probabilities (kept) and sums that are none (smoothed), to be upsampled and
    argmaxed like scores. Raises UserError for a threshold outside 0..1.
    """
    _check("key smoothing", threshold)
    assert keys.shape[:2] == (len(scores), scores[0, 0].numel()), (scores.shape, keys.shape)
    scores = wide(scores)
    if threshold == 0:
        return scores
    p = (temperature * scores).softmax(1)  # (N, K, h, w)
    unit = F.normalize(keys.to(p.dtype), dim=1 if norm == "positions" else 2)
    smooth = _vote(unit, p.flatten(2)).view_as(p)
    unsure = p.amax(1, keepdim=True) < threshold  # (N, 1, h, w)
    return torch.where(unsure, smooth, p)


def _vote(keys: Tensor, p: Tensor) -> Tensor:
    """`keys @ keys^T` applied to the positions of p (N, K, hw), multiplied in the order that costs less.

    The square matrix (hw, hw) is made only where hw < 2 min(E, K), so it is at most twice an input.
    """
    (positions, channels), classes = keys.shape[1:], p.shape[1]
    with torch.autocast(p.device.type, enabled=False):
        if positions * (channels + classes) < 2 * channels * classes:
            return p @ (keys @ keys.mT)  # (N, K, hw) @ (N, hw, hw)
        return (p @ keys) @ keys.mT  # (N, K, E) @ (N, E, hw)


def _check(what: str, threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise UserError(f"the threshold of {what} is {threshold}: give a probability from 0 (off) to 1")


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
