"""One axis of a bilinear resize as a short list of taps, and scores read through it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


@dataclass(frozen=True)
class Taps:
    """Output line i is `sum_t weight[i, t] * input[first[i] + t]`.

    first: (L,) int64. weight: (L, T), non-negative, rows sum to one. T is 2 for one enlargement, 3 for two
    in a row, 1 where nothing is mixed.
    """

    first: Tensor
    weight: Tensor

    @property
    def width(self) -> int:
        """How many neighbouring input lines one output line may mix."""
        return self.weight.shape[1]

    def nodes(self) -> Tensor:
        """Input lines that each output line reads, (L, T) int64."""
        return self.first[:, None] + torch.arange(self.width, device=self.first.device)

    def at(self, lines: Tensor | slice) -> "Taps":
        """The taps of some output lines."""
        return Taps(self.first[lines], self.weight[lines])


def taps(n_in: int, n_out: int, via: int | None, like: Tensor) -> Taps:
    """Taps of a bilinear resize (align_corners=False) of one axis, n_in -> (via ->) n_out lines.

    The weights are read off `F.interpolate` itself, applied to the identity, so that its rounding, its border
    rule and any chain of resizes are the ones that a full-size interpolation would have used.
    `like` gives device and floating type.
    """
    assert n_in > 0 and n_out > 0, (n_in, n_out)
    eye = torch.eye(n_in, device=like.device, dtype=like.dtype)[None, :, :, None]  # (1, n_in, n_in, 1)
    for length in (via, n_out):
        if length is not None:
            eye = F.interpolate(eye, size=(length, 1), mode="bilinear")
    matrix = eye[0, :, :, 0].T  # (n_out, n_in)
    used = (matrix != 0).int()
    first, last = used.argmax(1), n_in - 1 - used.flip(1).argmax(1)  # (n_out,)
    width = int((last - first).max()) + 1
    first = first.clamp(max=n_in - width)
    line = first[:, None] + torch.arange(width, device=like.device)
    return Taps(first, matrix.gather(1, line))


def axes(scores: Tensor, size: Size, via: Size | None) -> tuple[Taps, Taps]:
    """Row and column taps that take the maps `scores` (..., h, w) to `size`, through `via` if given."""
    h, w = scores.shape[-2:]
    between = via or (None, None)
    return taps(h, size[0], between[0], scores), taps(w, size[1], between[1], scores)


def mix_rows(maps: Tensor, rows: Taps) -> Tensor:
    """Resize the rows of `maps` (..., h, w) to (..., L, w)."""
    out = maps[..., rows.first, :] * rows.weight[:, 0, None]
    for tap in range(1, rows.width):
        out += maps[..., rows.first + tap, :] * rows.weight[:, tap, None]
    return out


def mix_columns(maps: Tensor, columns: Taps) -> Tensor:
    """Resize the columns of `maps` (..., h, w) to (..., h, L)."""
    out = maps[..., columns.first] * columns.weight[:, 0]
    for tap in range(1, columns.width):
        out += maps[..., columns.first + tap] * columns.weight[:, tap]
    return out


def heatmaps(scores: Tensor, classes: Sequence[int], size: Size, *, via: Size | None = None) -> Tensor:
    """Upsampled scores of a few classes.

    scores: (N, K, h, w) cosines or key-smoothed sums. classes: ids, C of them. size: (H, W) in pixels.
    via: size of the network's input for the official two-step resize. Returns (N, C, H, W) float32 (float64
    scores stay float64).
    """
    chosen = wide(scores[:, list(classes)])  # (N, C, h, w)
    for step in (via, size):
        if step is not None:
            chosen = F.interpolate(chosen, size=step, mode="bilinear")
    return chosen


def scores_at(scores: Tensor, points: Tensor, size: Size, *, via: Size | None = None) -> Tensor:
    """Upsampled scores of all classes at single pixels.

    scores: (N, K, h, w). points: (P, 2) int64, row and column of each pixel of the (H, W) picture.
    Returns (N, P, K) float32 (float64 scores stay float64), the values a full-size interpolation would have.
    """
    scores = wide(scores)
    rows, columns = axes(scores, size, via)
    rows, columns = rows.at(points[:, 0]), columns.at(points[:, 1])
    corners = scores[:, :, rows.nodes()[:, :, None], columns.nodes()[:, None, :]]  # (N, K, P, Ty, Tx)
    weight = rows.weight[:, :, None] * columns.weight[:, None, :]  # (P, Ty, Tx)
    return (corners * weight).sum((-2, -1)).transpose(1, 2)


def wide(scores: Tensor) -> Tensor:
    """16-bit scores as float32, wider ones as they are."""
    assert scores.is_floating_point(), scores.dtype
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
