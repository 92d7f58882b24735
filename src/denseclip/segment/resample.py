"""Bilinear resizing in one or two steps, and each of its axes as a short list of taps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Taps:
    """Output line i of a resize is `sum_t weight[i, t] * input[first[i] + t]`.

    first: (L,) int64. weight: (L, T), non-negative, rows sum to one. T is 2 for one enlargement, 3 for two in
    a row, 1 where nothing is mixed.
    """

    first: Tensor
    weight: Tensor

    @property
    def width(self) -> int:
        """T, how many neighbouring input lines one output line may mix."""
        return self.weight.shape[1]

    def lines(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Input lines (P, T) int64 and their weights (P, T) of some output lines (P,)."""
        return self.first[output, None] + torch.arange(self.width, device=output.device), self.weight[output]


@lru_cache(maxsize=64)  # pictures of one size come in numbers
def taps(n_in: int, n_out: int, via: int | None, dtype: torch.dtype, device: torch.device) -> Taps:
    """Taps of one axis of a bilinear resize, n_in -> (via ->) n_out lines.

    The weights are read off `resize` itself, applied to the identity: its rounding, its rule at the borders
    and any chain of steps are then the same.
    """
    eye = torch.eye(n_in, device=device, dtype=dtype)[None, :, :, None]  # (1, n_in, n_in, 1)
    matrix = resize(eye, (n_out, 1), None if via is None else (via, 1))[0, :, :, 0].T  # (n_out, n_in)
    used = (matrix != 0).int()
    first, last = used.argmax(1), n_in - 1 - used.flip(1).argmax(1)  # (n_out,)
    width = int((last - first).max()) + 1
    first = first.clamp(max=n_in - width)
    return Taps(first, matrix.gather(1, first[:, None] + torch.arange(width, device=device)))


def axes(scores: Tensor, size: Size, via: Size | None) -> tuple[Taps, Taps]:
    """Row and column taps that take maps (.., h, w) to `size`, through `via` if given."""
    h, w = scores.shape[-2:]
    high, wide = via or (None, None)
    kind = scores.dtype, scores.device
    return taps(h, size[0], high, *kind), taps(w, size[1], wide, *kind)


def resize(maps: Tensor, size: Size, via: Size | None = None) -> Tensor:
    """Bilinear resize (align_corners=False) of (N, C, h, w) to (N, C, H, W), in two steps with `via`."""
    for step in (via, size):
        if step is not None:
            maps = F.interpolate(maps, size=step, mode="bilinear")
    return maps


def heatmaps(scores: Tensor, classes: Sequence[int], size: Size, *, via: Size | None = None) -> Tensor:
    """Upsampled scores of a few classes.

    scores: (N, K, h, w) cosines, or what key smoothing made of them. classes: C ids. size: (H, W) in pixels.
    via: size of the network's input for the official two-step resize. Returns (N, C, H, W) float32 (float64
    for float64 scores).
    """
    return resize(wide(scores[:, list(classes)]), size, via)


def scores_at(scores: Tensor, points: Tensor, size: Size, *, via: Size | None = None) -> Tensor:
    """Upsampled scores of all classes at single pixels.

    scores, size, via: as in `heatmaps`. points: (P, 2) int64, row and column of pixels of the (H, W) picture.
    Returns (N, P, K) float32 (float64 for float64 scores), the values that a full-size resize would have.
    """
    scores = wide(scores)
    rows, columns = axes(scores, size, via)
    points = points.to(scores.device)
    (y, wy), (x, wx) = rows.lines(points[:, 0]), columns.lines(points[:, 1])
    nodes = scores[:, :, y[:, :, None], x[:, None, :]]  # (N, K, P, Ty, Tx)
    return (nodes * wy[:, :, None] * wx[:, None, :]).sum((-2, -1)).transpose(1, 2)


def wide(scores: Tensor) -> Tensor:
    """16-bit scores as float32, wider ones as they are."""
    assert scores.is_floating_point(), scores.dtype
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
