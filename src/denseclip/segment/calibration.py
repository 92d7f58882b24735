"""The last block corrected by what middle blocks know: SC-CLIP (Bai et al., 2024), ResCLIP (Yang et al., CVPR 2025).

SC-CLIP's tokens of middle blocks repair and regroup those of the last one. Of ResCLIP's corrections RCS, residual
cross-correlation self-attention, depends on the picture alone; SFR, semantic feedback refinement, takes the labels of
a first pass, so it depends on the words, too.
"""

from collections.abc import Sequence
from math import exp

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from denseclip.clip.towers import to_map
from denseclip.clip.transformer import Block, Grid
from denseclip.segment.refine import pamr

NEIGHBORS = 30  # that the outlier test looks at
SHARE = 0.05  # of the tokens that is replaced
LEAST = 0.4  # similarities below it do not count where tokens are regrouped
BELOW = float(np.nextafter(np.float32(LEAST), np.float32(0)))
CLASS_TOKEN = 0.3  # of the class token that is added to every position
FIRST, MIDDLE, STOP = 4, 9, 10  # SC-CLIP's blocks, counted from 1, of CLIPs with 12 blocks or more


def level(number: int, blocks: int) -> int:
    """Block `number` of the published settings, which are for 12 blocks and more, in a tower that has fewer."""
    return number if blocks >= 12 else number * blocks // 12


def sc_clip(blocks: Sequence[Block], x: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Tokens (B, 1 + hw, W) before the first block -> positions (B, hw, W) before the last norm, and the last input.

    Similarities are computed in float32, whatever the tokens are in.
    """
    first, middle, stop = (level(number, len(blocks)) for number in (FIRST, MIDDLE, STOP))
    early = pre = total = x
    for number, block in enumerate(blocks[:-1], 1):
        x = block(x)  # (B, 1 + hw, W)
        pre = x if number == middle else pre
        if number == first:
            early = total = x
        elif first < number <= stop:
            total = total + x
    bad = outliers(x[:, 1:])  # (B, hw)
    near = similarity(repair(pre[:, 1:], bad, grid))  # (B, hw, hw)
    deep = regrouped(near, repair(x[:, 1:], bad, grid))  # (B, hw, W)
    share = centered_softmax(near, 3.0, 1.0).to(x.dtype)  # (B, hw, hw)
    both = _last(blocks[-1], (deep, total[:, 1:]), share) + CLASS_TOKEN * (x[:, :1] + total[:, :1])
    return regrouped(similarity(early[:, 1:]), both), x


def outlier_scores(x: Tensor, neighbors: int = NEIGHBORS) -> Tensor:
    """How lonely each token of (B, N, W) is, (B, N) float32: k_i * mean of 1 / k_j over its nearest ones j.

    k is the squared distance to the farthest of them: the official code's, which is not the local outlier factor.
    NaN or infinite where tokens coincide.
    """
    x = x.float()
    x = x - x.mean(1, keepdim=True)  # distances stay, and are rounded less
    square = x.square().sum(-1)
    distance = torch.baddbmm(square[:, :, None] + square[:, None], x, x.mT, alpha=-2).clamp_min_(
        0
    )  # (B, N, N)
    distance.diagonal(dim1=1, dim2=2).fill_(-1)  # each token comes first in its own list
    count = min(neighbors, x.shape[1] - 1)
    nearest = distance.topk(count + 1, largest=False, sorted=True)
    far = nearest.values[:, :, -1]  # (B, N)
    index = nearest.indices[:, :, 1:].flatten(1)  # (B, N count)
    return far * far.reciprocal().gather(1, index).unflatten(1, (-1, count)).mean(-1)


def outliers(x: Tensor, neighbors: int = NEIGHBORS, share: float = SHARE) -> Tensor:
    """Which tokens of (B, N, W) to replace, (B, N) bool: those above the (1 - share) quantile of the scores.

    None where the scores are not finite, and none of a single token.
    """
    if x.shape[1] < 2:
        return torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    scores = outlier_scores(x, neighbors)
    place = (1 - share) * (scores.shape[1] - 1)
    below = min(int(place), scores.shape[1] - 2)
    ordered = scores.sort(1).values
    low, high = ordered[:, below : below + 1], ordered[:, below + 1 : below + 2]
    return scores > low + (high - low) * (place - below)


def repair(x: Tensor, bad: Tensor, grid: Grid) -> Tensor:
    """Tokens (B, hw, W) with each bad one replaced by the mean of its good neighbors on the grid, if it has any."""
    good = to_map((~bad).to(x.dtype)[:, :, None], grid)  # (B, 1, h, w)
    sums = F.avg_pool2d(to_map(x, grid) * good, 3, 1, 1) * 9
    count = (F.avg_pool2d(good.float(), 3, 1, 1) * 9).round()
    mean = (sums / count.clamp_min(1).to(x.dtype)).flatten(2).mT  # (B, hw, W)
    return torch.where(bad[:, :, None] & (count.flatten(2).mT > 0), mean, x)


def similarity(x: Tensor) -> Tensor:
    """Cosines (B, N, N) float32 between the tokens of (B, N, W)."""
    with torch.autocast(x.device.type, enabled=False):
        unit = F.normalize(x.float(), dim=-1)
        return unit @ unit.mT


def regrouped(similar: Tensor, x: Tensor) -> Tensor:
    """Tokens (B, N, W) as means of those that are similar (B, N, N), at least 0.4, weighted by it."""
    kept = F.threshold(similar, BELOW, 0.0)
    return (kept @ x.float() / (kept.sum(-1, keepdim=True) + 1e-6)).to(x.dtype)


def centered_softmax(similar: Tensor, scale: float, beta: float) -> Tensor:
    """Soft-max over the rows of scale * (S - beta * mean of S); what is below zero is left out, but for the diagonal.

    similar: (B, N, N). Without the diagonal a row could be empty, where all positions are alike, and give NaN.
    """
    moved = (similar - beta * similar.mean((1, 2), keepdim=True)).mul_(scale)
    out = moved < 0
    out.diagonal(dim1=1, dim2=2).fill_(False)
    return moved.masked_fill_(out, -torch.inf).softmax(-1)


def _last(block: Block, ways: Sequence[Tensor], share: Tensor) -> Tensor:
    """The sum of the last attention on positions (B, hw, W) of several ways; no more than the attention.

    It is the mean of `share` (B, hw, hw) and of keys with keys. All after the soft-max is linear, and done once.
    """
    attn = block.attn
    pairs = [attn.keys_and_values(block.ln_1(x)) for x in ways]  # (B, heads, hw, d) each
    values = torch.stack([v for _, v in pairs]).sum(0)
    shared = share @ values.transpose(1, 2).flatten(2)  # (B, hw, W)
    own = torch.stack([F.scaled_dot_product_attention(k, k, v) for k, v in pairs]).sum(0)
    mixed = (shared.unflatten(2, (attn.heads, -1)).transpose(1, 2) + own) / 2
    return block.ls_1(attn.project(mixed) + (len(ways) - 1) * attn.out_proj.bias)


AVERAGED = range(6, 10)  # blocks, counted from 1, whose attention is ResCLIP's mean one
SCALE = 40.0  # of cosines in the first pass's probabilities
SIGMA = 5.0  # of the smoothing of the feedback, in positions one after the other


def with_attention(blocks: Sequence[Block], x: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (B, T, W) before the first block -> those before the last, and the mean attention (B, heads, T, T)."""
    wanted = {level(number, len(blocks)) for number in AVERAGED} & set(range(1, len(blocks)))
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
