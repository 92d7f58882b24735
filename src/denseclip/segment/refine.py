"""Prompt denoising and key smoothing: cleaning up scores at map resolution (MaskCLIP, ECCV 2022).

Where both are wanted, denoising comes first.
"""

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
