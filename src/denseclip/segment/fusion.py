"""Network inputs put together: in scores, or before the last norm (Trident, Shi et al., 2024, without SAM)."""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor

from denseclip.errors import UserError
from denseclip.segment.attention import DenseEncoder, DenseFeatures
from denseclip.segment.decode import Confidence, Prediction
from denseclip.segment.resample import Size, Window

BAND_SCORES_GPU = 1 << 27
BAND_SCORES = 1 << 23  # full-size scores held together while several views are composed


class ScoreFusion:
    """Puts the scores of several windows together on one picture, in bands of rows.

    Scores are upsampled bilinearly to their window, averaged where windows of one view (a frame, or its mirror image)
    overlap, and resized to the picture: linear, so each axis is one small matrix per window. Views are averaged:
    their scores, or with a `temperature` their probabilities p = soft-max of temperature x score, as the official
    segmenters are tested; the composed score is then log(mean p) / temperature, so that decoding stays the same.
    """

    def __init__(
        self, cuts: list[Window], maps: list[Size], size: Size, temperature: float | None = None
    ) -> None:
        assert cuts and len(cuts) == len(maps)
        self.size = size
        self._cuts = cuts
        self._maps = maps
        self._views: dict[tuple[Size, bool], list[int]] = {}
        for index, cut in enumerate(cuts):
            self._views.setdefault((cut.frame, cut.flip), []).append(index)
        self._temperature = temperature if len(self._views) > 1 else None

    @property
    def by_probability(self) -> bool:
        """Whether views are averaged by their probabilities, so that a class depends on all others."""
        return self._temperature is not None

    @cached_property
    def _axes(self) -> list[tuple[Tensor, Tensor]]:
        """Row matrix (H, h) and column matrix (W, w) of every window, on the CPU."""
        axes = []
        for cut, (h, w) in zip(self._cuts, self._maps, strict=True):
            view = [self._cuts[index] for index in self._views[cut.frame, cut.flip]]
            tops, lefts = frozenset(other.top for other in view), frozenset(other.left for other in view)
            rows = _axis(h, cut.top, cut.height, tops, cut.frame[0], self.size[0])
            columns = _axis(w, cut.left, cut.width, lefts, cut.frame[1], self.size[1])
            axes.append((rows, columns.flip(1) if cut.flip else columns))
        return axes

    def bands(self, classes: int, device: torch.device | None = None) -> list[slice]:
        """Row ranges that together cover the picture, each small enough to hold all classes."""
        most = BAND_SCORES if device is None or device.type == "cpu" else BAND_SCORES_GPU
        tall = max(1, most // max(1, classes * self.size[1]))
        return [slice(top, min(top + tall, self.size[0])) for top in range(0, self.size[0], tall)]

    def band(self, scores: list[Tensor], rows: slice) -> Tensor:
        """Composed scores (K, R, W) of some rows, from the (K, h, w) of every window."""
        total: Tensor | None = None
        for indices in self._views.values():
            view = self._view(scores, indices, rows)
            if self._temperature is not None:
                view = view.mul_(self._temperature).log_softmax(0)
                total = view if total is None else torch.logaddexp(total, view)
            else:
                total = view if total is None else total.add_(view)
        assert total is not None
        if self._temperature is not None:
            return total.sub_(log(len(self._views))).div_(self._temperature)
        return total.div_(len(self._views))

    def decode(
        self,
        scores: list[Tensor],
        kind: Confidence | None,
        temperature: float,
        threshold: float | None,
        void: int,
    ) -> Prediction:
        """Best class (H, W) int32 of the (K, h, w) of every window, and confidence; arguments as `decode.decode`."""
        masks, confidences = [], []
        for rows in self.bands(len(scores[0]), scores[0].device):
            full = self.band(scores, rows)  # (K, R, W)
            best, ids = full.max(0)
            if kind == "probability":
                best = 1 / ((full - best) * temperature).exp_().sum(0)
            if threshold is not None:
                ids[best < threshold] = void
            masks.append(ids.to(torch.int32))
            confidences.append(best)
        return Prediction(torch.cat(masks), torch.cat(confidences) if kind else None)

    def plane(self, scores: list[Tensor], index: int) -> Tensor:
        """Composed scores (H, W) of one class."""
        if self._temperature is None:
            return self.full([one[index : index + 1] for one in scores])[0]
        return torch.cat([self.band(scores, rows)[index] for rows in self.bands(len(scores[0]))])

    def full(self, scores: list[Tensor]) -> Tensor:
        """Composed scores (K, H, W); only for small sizes."""
        return self.band(scores, slice(0, self.size[0]))

    def _view(self, scores: list[Tensor], indices: list[int], rows: slice) -> Tensor:
        """Scores (K, R, W) of one view."""
        total: Tensor | None = None
        for index in indices:
            one, (down, across) = scores[index], self._axes[index]
            part = down[rows].to(one)  # (R, h)
            if not part.any():
                continue
            full = torch.einsum("rh,khw,cw->krc", part, one, across.to(one))  # (K, R, W)
            total = full if total is None else total.add_(full)
        assert total is not None, "no window covers these rows"
        return total


@lru_cache(maxsize=256)  # pictures of one size come in numbers
def _axis(cells: int, start: int, length: int, starts: frozenset[int], frame: int, out: int) -> Tensor:
    """Matrix (out, cells): cells -> window pixels -> frame pixels, averaged over windows -> picture pixels."""
    window = _resize(torch.eye(cells), length)  # (length, cells)
    cover = torch.zeros(frame)
    for other in starts:
        cover[other : other + length] += 1
    placed = torch.zeros(frame, cells)
    placed[start : start + length] = window / cover[start : start + length, None]
    return _resize(placed, out)


def _resize(columns: Tensor, length: int) -> Tensor:
    """Bilinear resize (align_corners=False) of the first axis of (n, m) to (length, m)."""
    if len(columns) == length:
        return columns
    return F.interpolate(columns.T[None], length, mode="linear", align_corners=False)[0].T


def splice(maps: Sequence[Tensor], corners: Sequence[tuple[int, int, int, int]]) -> Tensor:
    """Window maps (B, C, h, w), averaged where they overlap -> (B, C, H, W).

    corners: top, left, bottom, right of each window in cells of the whole map; a map of another size is resized.
    Features are averaged as they are, so that longer ones count more.
    """
    height, width = max(corner[2] for corner in corners), max(corner[3] for corner in corners)
    total = maps[0].new_zeros(*maps[0].shape[:2], height, width)
    count = maps[0].new_zeros(height, width)
    for one, (top, left, bottom, right) in zip(maps, corners, strict=True):
        size = (bottom - top, right - left)
        if tuple(one.shape[2:]) != size:
            one = F.interpolate(one, size, mode="bilinear")
        total[:, :, top:bottom, left:right] += one
        count[top:bottom, left:right] += 1
    return total / count


def spliced(
    encoder: DenseEncoder, cuts: Sequence[Window], raw: Sequence[DenseFeatures]
) -> tuple[list[Window], list[DenseFeatures]]:
    """Raw features of windows -> one input a view (a frame, or its mirror image), and its finished features.

    Raises UserError for windows that do not fall on whole patches.
    """
    groups: dict[Window, list[int]] = {}
    for index, cut in enumerate(cuts):
        groups.setdefault(Window(cut.frame, 0, 0, *cut.frame, flip=cut.flip), []).append(index)
    found = []
    for indices in groups.values():
        maps = [raw[index].map for index in indices]
        finer = max(1, round(maps[0].shape[2] * encoder.patch / cuts[indices[0]].height))  # of a proxy tower
        found.append(
            encoder.finish(splice(maps, [_corners(cuts[index], encoder.patch, finer) for index in indices]))
        )
    return list(groups), found


def _corners(cut: Window, patch: int, finer: int) -> tuple[int, int, int, int]:
    """A window's place in cells of the map of its view, which is mirrored if the window is."""
    left = cut.frame[1] - cut.left - cut.width if cut.flip else cut.left
    edges = (cut.top, left, cut.top + cut.height, left + cut.width)
    if any(edge % patch for edge in edges):
        raise UserError(f"fusion=features needs windows of whole patches; give --slide multiples of {patch}")
    top, left, bottom, right = (edge // patch * finer for edge in edges)
    return top, left, bottom, right
