"""ResCLIP: the last attention corrected by that of middle blocks, and by a first answer (Yang et al., CVPR 2025).

RCS, residual cross-correlation self-attention, depends on the picture alone. SFR, semantic feedback refinement, takes
the labels of a first pass, so it depends on the words, too.
"""

from collections.abc import Sequence
from math import exp

import torch
import torch.nn.functional as F
from torch import Tensor

from denseclip.clip.transformer import Block
from denseclip.segment.pamr import pamr
from denseclip.segment.sc_clip import level

FIRST, LAST = 6, 9  # blocks, counted from 1, whose attention is averaged
SCALE = 40.0  # of cosines in the first pass's probabilities
SIGMA = 5.0  # of the smoothing of the feedback, in positions one after the other


def with_attention(blocks: Sequence[Block], x: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (B, T, W) before the first block -> those before the last, and the mean attention (B, heads, T, T)."""
    wanted = {level(number, len(blocks)) for number in range(FIRST, LAST + 1)} & set(range(1, len(blocks)))
    total: Tensor | None = None
    for number, block in enumerate(blocks[:-1], 1):
        if number in wanted:
            x, attention = _explicit(block, x)
            total = attention if total is None else total + attention
        else:
            x = block(x)
    if total is None:  # towers of one block
        return x, _explicit(blocks[-1], x)[1]
    return x, total / len(wanted)


def _explicit(block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
    """A block that also gives its attention (B, heads, T, T)."""
    q, k, v = block.attn.qkv(block.ln_1(x))
    attention = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
    x = x + block.ls_1(block.attn.project(attention @ v))
    return x + block.ls_2(block.mlp(block.ln_2(x))), attention


def feedback_labels(scores: Tensor, images: Tensor, patch: int, threshold: float) -> tuple[Tensor, Tensor]:
    """The word of every pixel (B, H, W) and of every patch (B, h, w), of cosines (B, P, h', w') of the first pass.

    images: (B, 3, H, W), normalized. Pixels that are less sure than `threshold` get word 0, as published.
    """
    pixels = torch.cat(
        [_pixel_labels(one[None], image[None], threshold) for one, image in zip(scores, images, strict=True)]
    )
    height, width = (side // patch * patch for side in images.shape[2:])
    whole = pixels[:, :height, :width].unfold(1, patch, patch).unfold(2, patch, patch)  # (B, h, w, p, p)
    cells = whole.flatten(3)
    counts = torch.zeros(*cells.shape[:3], scores.shape[1], dtype=torch.int64, device=scores.device)
    counts.scatter_add_(3, cells, torch.ones_like(cells))
    words = torch.arange(scores.shape[1], device=scores.device)
    return pixels, (counts * len(words) - words).argmax(3)  # the lowest of the most frequent


def _pixel_labels(scores: Tensor, image: Tensor, threshold: float) -> Tensor:
    full = F.interpolate(scores.float(), image.shape[2:], mode="bilinear")  # (1, P, H, W)
    best, words = (SCALE * pamr(full, image)).softmax(1).max(1)
    return words.masked_fill(best < threshold, 0)


def feedback(labels: Tensor) -> Tensor:
    """What patches with the labels (h, w) say to each other: (1 + hw, 1 + hw) float16, greatest value 1.

    Token 0, the whole picture's, says nothing.
    """
    matrix = smoothed(agreement(labels))
    matrix = matrix / (matrix.sum(1, keepdim=True) + 1e-8)
    return F.pad(matrix / matrix.max(), (1, 0, 1, 0)).half()


def agreement(labels: Tensor) -> Tensor:
    """1 between patches of (h, w) of one label, less with distance where they are not one thing: (hw, hw) float32."""
    (height, width), flat = labels.shape, labels.flatten()
    same = (flat[:, None] == flat).float()
    longest = max(height, width) - 1
    if longest == 0:
        return same
    rows, columns = torch.arange(height, device=flat.device), torch.arange(width, device=flat.device)
    y, x = rows.repeat_interleave(width), columns.repeat(height)
    steps = torch.maximum((y[:, None] - y).abs(), (x[:, None] - x).abs())  # (hw, hw)
    decay = torch.tensor([exp(-step / longest) for step in range(longest + 1)], device=flat.device)
    return torch.where(straight(labels, steps), same, same * decay[steps])


def straight(labels: Tensor, steps: Tensor) -> Tensor:
    """Whether labels (h, w) stay those of patch i on the way from i to j, (hw, hw) bool.

    steps: (hw, hw), the greater of both distances. Points lie 1 / (longest way) of the way apart, not 1 / steps,
    as in the official code, so the test ends early.
    """
    (height, width), flat = labels.shape, labels.flatten()
    longest = max(height, width) - 1
    down, across = _way(height, longest, flat.device), _way(width, longest, flat.device)  # (s + 1, n, n)
    passed = torch.ones_like(steps, dtype=torch.bool)
    for number in range(longest + 1):
        row = down[number].repeat_interleave(width, 0).repeat_interleave(width, 1)  # (hw, hw)
        column = across[number].repeat(height, height)
        passed &= (flat[row * width + column] == flat[:, None]) | (steps < number)
    return passed


def _way(length: int, longest: int, device: torch.device) -> Tensor:
    """(longest + 1, n, n): where one is on the way from a line to another, rounded half to even, in float32."""
    part = torch.linspace(0, 1, longest + 1)[:, None, None]
    line = torch.arange(length, dtype=torch.float32)
    return (line[:, None] * (1 - part) + line * part).round().long().to(device)


def smoothed(matrix: Tensor, sigma: float = SIGMA) -> Tensor:
    """Rows of (N, N) smoothed along the positions in raster order, which run on from line to line, as published."""
    size = min(len(matrix), int(6 * sigma + 1))
    size += size % 2 == 0
    offset = torch.arange(size, dtype=torch.float32, device=matrix.device) - size // 2
    kernel = torch.exp(-offset.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum())[None, None]
    return F.conv1d(matrix[:, None], kernel, padding=size // 2)[:, 0].clamp_min(0)
