"""The guided filter: scores become locally linear functions of the picture's colors (He et al., ECCV 2010)."""

from collections.abc import Iterator

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

EPSILON = 1e-3  # the variance of colors in 0..1 that is no edge yet
CELLS = 4  # of the coarse grid to a radius
RADIUS = 0.1  # of the picture's shorter side
LEAST = 5e-4  # of a mask, that a class must have to be filtered


def guided_filter(scores: Tensor, guide: Tensor, radius: int, epsilon: float = EPSILON) -> Iterator[Tensor]:
    """Scores (K, h, w) at the size of a picture (3, H, W) in 0..1, with its edges; (H, W) float32, class by class.

    Section 3.5, color guide: in every window, score = a . color + b by least squares, with `epsilon` on the diagonal
    of the colors' covariance; windows are averaged. radius: of a window, in pixels. As in the "Fast guided filter"
    (He & Sun, 2015), a and b are found on a grid of `CELLS` a radius and resized bilinearly.
    """
    height, width = guide.shape[1:]
    step = max(1, radius // CELLS)
    size = (-(-height // step), -(-width // step))
    small = F.interpolate(guide[None], size, mode="bilinear", antialias=step > 1)[0]  # (3, h', w')
    coarse = F.interpolate(scores[None].float(), size, mode="bilinear")[0]  # (K, h', w')
    lines = _lines(coarse, small, max(1, round(radius / step)), epsilon)  # (4, K, h', w')
    for index in range(len(scores)):
        fine = _resized(lines[:, index], (height, width))  # (4, H, W)
        yield fine[3].addcmul_(fine[0], guide[0]).addcmul_(fine[1], guide[1]).addcmul_(fine[2], guide[2])


@torch.no_grad()
def follow_edges(mask: Tensor, shares: Tensor, image: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """A mask (H, W) whose outlines follow the picture (H, W, 3), and the winners' filtered shares in 0..1, (H, W).

    shares: (K, h, w), probabilities that are coarser. Only classes that have more than `LEAST` of the mask are
    filtered, so the cost does not grow with the words; others get nothing. The radius is a tenth of
    the picture's shorter side (chosen by benchmarks/bench_edges.py).
    """
    counts = torch.bincount(mask.flatten().long(), minlength=len(shares))
    ids = (counts >= min(LEAST * mask.numel(), int(counts.max()))).nonzero()[:, 0]
    guide = torch.from_numpy(image).to(shares.device).permute(2, 0, 1).float() / 255
    radius = max(2, round(min(mask.shape) * RADIUS))
    best, found = None, torch.empty_like(mask, dtype=torch.int32)
    for number, plane in zip(ids.tolist(), guided_filter(shares[ids], guide, radius), strict=True):
        if best is None:
            best, found = plane, found.fill_(number)
            continue
        found.masked_fill_(plane > best, number)
        best = torch.maximum(best, plane, out=best)
    assert best is not None
    return found, best.clamp_(0, 1)


def _lines(scores: Tensor, guide: Tensor, radius: int, epsilon: float) -> Tensor:
    """a and b of scores (K, h, w) under colors (3, h, w), averaged over windows: (4, K, h, w)."""
    mean, averages = _box(guide, radius), _box(scores, radius)
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    products = _box(torch.stack([guide[i] * guide[j] for i, j in pairs]), radius)
    triangle = [
        products[place] - mean[i] * mean[j] + (epsilon if i == j else 0) for place, (i, j) in enumerate(pairs)
    ]
    inverse = _inverse(*triangle)
    cover = [_box(scores * guide[i], radius) - averages * mean[i] for i in range(3)]  # 3 of (K, h, w)
    rows = ((0, 1, 2), (1, 3, 4), (2, 4, 5))
    slopes = [inverse[a] * cover[0] + inverse[b] * cover[1] + inverse[c] * cover[2] for a, b, c in rows]
    shift = averages - slopes[0] * mean[0] - slopes[1] * mean[1] - slopes[2] * mean[2]
    return _box(torch.cat([*slopes, shift]), radius).unflatten(0, (4, -1))


def _inverse(rr: Tensor, rg: Tensor, rb: Tensor, gg: Tensor, gb: Tensor, bb: Tensor) -> list[Tensor]:
    """The inverse of symmetric 3 x 3 matrices, upper triangle row by row."""
    parts = [gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg]
    parts += [rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg]
    determinant = rr * parts[0] + rg * parts[1] + rb * parts[2]
    return [part / determinant for part in parts]


def _box(maps: Tensor, radius: int) -> Tensor:
    """Means (K, h, w) over squares of 2 radius + 1 cells, of what lies inside."""
    size = 2 * radius + 1
    for kernel, pad in (((size, 1), (radius, 0)), ((1, size), (0, radius))):
        maps = F.avg_pool2d(maps[None], kernel, 1, pad, count_include_pad=False)[0]
    return maps


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of (K, h, w); on a CPU by OpenCV, in a tenth of the time."""
    if maps.shape[1:] == size:
        return maps
    if maps.device.type != "cpu":
        return F.interpolate(maps[None], size, mode="bilinear")[0]
    out = np.empty((len(maps), *size), np.float32)
    for one, place in zip(maps.numpy(), out, strict=True):
        cv2.resize(one, (size[1], size[0]), dst=place, interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(out)
