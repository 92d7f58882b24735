"""Contrast between pictures and sentences, with one or several right sentences for a picture."""

import math

import torch
from torch import Tensor


def bank_contrast(logits: Tensor, known: Tensor) -> Tensor:
    """Each right word of a picture against all wrong ones, never against other right ones.

    logits (B, W): scaled similarities; known (B, W) bool, the right words. Returns a scalar.
    """
    rows, _ = known.nonzero(as_tuple=True)
    wrong = logits.masked_fill(known, float("-inf")).logsumexp(1)[rows]  # (M,)
    right = logits[known]
    return (torch.logaddexp(right, wrong) - right).mean()


def phrase_contrast(images: Tensor, phrases: Tensor, matches: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss where a picture has several right phrases and a phrase several right pictures.

    images (B, D), phrases (U, D): unit rows; matches (B, U) bool. Returns a scalar.
    """
    logits = scale * images @ phrases.T  # (B, U)
    return (bank_contrast(logits, matches) + bank_contrast(logits.T, matches.T)) / 2


def pair_contrast(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss: unit rows (B, D) and (B, D), row i belongs to row i. Returns a scalar."""
    return phrase_contrast(
        images, texts, torch.eye(len(images), dtype=torch.bool, device=images.device), scale
    )


def place_contrast(logits: Tensor, known: Tensor) -> Tensor:
    """Each place of a picture shows one of the picture's words: which one is left to the model.

    logits (B, P, W): scaled similarities of places and words; known (B, W) bool. Pictures without a known word
    do not count. Returns a scalar. Source: learning from partial labels, the words of a caption as candidates.
    """
    logits, known = logits[known.any(1)], known[known.any(1)]
    right = logits.masked_fill(~known[:, None], float("-inf")).logsumexp(-1)  # (B, P)
    return (logits.logsumexp(-1) - right).mean()


def spread(texts: Tensor, sharpness: float = 8.0) -> Tensor:
    """How much different sentences look alike: 0 for unit rows (U, D) at right angles, 1 for equal ones.

    Without it the words of things stay together for long: as long as pictures do not tell them apart nothing
    parts the words, and as long as words are alike nothing asks pictures to. Returns a scalar.
    Source: the uniformity term of Wang and Isola, "Understanding Contrastive Representation Learning", 2020.
    """
    logits = sharpness * texts @ texts.T  # (U, U)
    logits = logits.masked_fill(torch.eye(len(texts), dtype=torch.bool, device=texts.device), float("-inf"))
    return (logits.logsumexp(1).mean() - math.log(len(texts) - 1)) / sharpness
