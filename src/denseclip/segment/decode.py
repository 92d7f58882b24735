"""From scores at map resolution to a mask at picture resolution, without the scores at picture resolution."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from denseclip.errors import UserError
from denseclip.segment.resample import Size, Strips, Taps, axes, resize, strips, wide

Confidence = Literal["score", "probability"]
NOT_FINITE = "the scores hold NaN or infinite values: run the encoder in float32 or bfloat16"


@dataclass(frozen=True)
class DecodeOptions:
    """What a decoder has to find out. confidence None: only the class ids."""

    confidence: Confidence | None
    temperature: float
    ids: torch.dtype


class Prediction(NamedTuple):
    """Class ids and, where asked for, confidence of each pixel, two planes of one shape.

    mask: (N, H, W) uint8 where all ids (and the void id) are at most 255, int32 otherwise.
    confidence: (N, H, W) float: the winner's upsampled score, or its soft-max probability in 0..1; or None.
    broken: (1,) on a device that was not waited for: not 0 if a score is not finite. None: all are.
    """

    mask: Tensor
    confidence: Tensor | None
    broken: Tensor | None = None

    def to_host(self) -> "Callable[[], Prediction]":
        """Start to copy both planes off the device; the call waits for them, and raises UserError if broken."""
        if not self.mask.is_cuda:
            return lambda: self
        copies = [
            None if plane is None else torch.empty_like(plane, device="cpu", pin_memory=True)
            for plane in self
        ]
        for plane, copy in zip(self, copies, strict=True):
            if plane is not None and copy is not None:
                copy.copy_(plane, non_blocking=True)
        there = torch.cuda.Event(blocking=True)
        there.record(torch.cuda.current_stream(self.mask.device))

        @lru_cache(maxsize=1)  # of a batch, for all of its pictures
        def arrived() -> Prediction:
            there.synchronize()
            return Prediction(*copies).checked()  # type: ignore[arg-type]

        return arrived

    def checked(self) -> "Prediction":
        """Itself, known to be sound; raises UserError if a score is not finite."""
        if self.broken is not None and bool(self.broken):
            raise UserError(NOT_FINITE)
        return Prediction(self.mask, self.confidence)

    @classmethod
    def blank(cls, shape: tuple[int, ...], ask: DecodeOptions, like: Tensor) -> "Prediction":
        """Uninitialized planes; `like` gives device and float type."""
        mask = like.new_empty(shape, dtype=ask.ids)
        return cls(mask, None if ask.confidence is None else like.new_empty(shape))

    def write(self, where: slice | int, part: "Prediction") -> None:
        """Write the planes of `part` at `where` along the first axis."""
        self.mask[where] = part.mask
        if self.confidence is not None and part.confidence is not None:
            self.confidence[where] = part.confidence

    def scatter(self, where: Tensor, part: "Prediction") -> None:
        """Write the planes of `part` at the indices `where` (n,) along the first axis."""
        self.mask.index_copy_(0, where, part.mask.to(self.mask.dtype))
        if self.confidence is not None and part.confidence is not None:
            self.confidence.index_copy_(0, where, part.confidence)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Prediction":
        """Do the same with both planes."""
        return Prediction(change(self.mask), None if self.confidence is None else change(self.confidence))


Window = tuple[int, int]
PRUNE_SCORES = 1 << 15  # scores compared together: stays in cache, and in one thread of torch


@dataclass(frozen=True)
class Candidates:
    """Classes left in each cell, cell after cell, ascending inside a cell; at least one per cell.

    count, start: (cells,) how many, and where they begin. ids: (P,) classes. nodes: (P, Ty, Tx) their scores.
    """

    count: Tensor
    start: Tensor
    ids: Tensor
    nodes: Tensor


class _Pairs(NamedTuple):
    """Cells and classes, (P,) each, ascending; nodes: (P, Ty * Tx) scores of the class at the cell's nodes."""

    cell: Tensor
    ids: Tensor
    nodes: Tensor


def cell_nodes(scores: Tensor, window: Window) -> Tensor:
    """Where the nodes of every cell are in flat maps (K, h * w): (cells, Ty * Tx), cells row by row."""
    (h, w), (ty, tx) = scores.shape[1:], window
    node = torch.arange(h * w, device=scores.device).view(h, w)
    corner = node[: h - ty + 1, : w - tx + 1].flatten()
    return corner[:, None] + node[:ty, :tx].flatten()


def candidates(scores: Tensor, window: Window) -> Candidates:
    """Classes of each cell (a window of Ty x Tx nodes) of `scores` (K, h, w) that may win in it.

    Of classes that only tie, on the cell's edges or all over it, one may be left (the lowest all over it).
    """
    node = cell_nodes(scores, window)
    cell, ids = _near(scores, window)
    where = ids[:, None] * scores[0].numel() + node.index_select(0, cell)  # (P, Ty * Tx)
    pairs = _Pairs(cell, ids, scores.flatten().index_select(0, where.flatten()).view_as(where))
    pairs = _undominated(pairs, len(node), pairs.nodes.amin(1))
    pairs = _undominated(pairs, len(node), pairs.nodes.sum(1))
    count = torch.bincount(pairs.cell, minlength=len(node))
    return Candidates(count, count.cumsum(0) - count, pairs.ids, pairs.nodes.view(-1, *window))


def _near(scores: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """Cells and classes, (P,) each, ascending: classes whose highest node reaches the lowest of every other's."""
    h, w = scores.shape[1] - window[0] + 1, scores.shape[2] - window[1] + 1
    tall = max(1, PRUNE_SCORES // (len(scores) * scores.shape[2]))
    found = []
    for top in range(0, h, tall):
        rows = scores[:, top : top + tall + window[0] - 1]
        low, high = _fold(rows, window, torch.minimum), _fold(rows, window, torch.maximum)  # (K, h', w')
        near = (high >= low.amax(0)).flatten(1).T.nonzero()  # (P, 2)
        near[:, 0] += top * w
        found.append(near)
    cell, ids = torch.cat(found).unbind(1)
    return cell, ids


def _fold(maps: Tensor, window: Window, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Fold each window of `maps` (K, h, w) with `pick`, to (K, h - Ty + 1, w - Tx + 1)."""
    for axis, width in ((1, window[0]), (2, window[1])):
        length = maps.shape[axis] - width + 1
        folded = maps.narrow(axis, 0, length)
        for shift in range(1, width):
            folded = pick(folded, maps.narrow(axis, shift, length))
        maps = folded
    return maps


def _undominated(pairs: _Pairs, cells: int, strength: Tensor) -> _Pairs:
    """Drop the classes that are nowhere above the class of greatest `strength` (P,) in their cell."""
    greatest = strength.new_empty(cells).scatter_reduce_(0, pairs.cell, strength, "amax", include_self=False)
    index = torch.arange(len(strength), device=strength.device)
    holds = (strength == greatest.index_select(0, pairs.cell)).nonzero()[:, 0]
    where = pairs.cell.index_select(0, holds)
    rival = holds.new_empty(cells).scatter_reduce_(0, where, holds, "amin", include_self=False)
    rival = rival.index_select(0, pairs.cell)  # (P,) the lowest class where several are strongest
    keep = (pairs.nodes > pairs.nodes.index_select(0, rival)).any(1) | (index == rival)
    return _Pairs(*(part.index_select(0, keep.nonzero()[:, 0]) for part in pairs))


BAND_SCORES = 1 << 20  # low-resolution scores pruned together: bounds the memory of the pruning
BLOCK_SCORES = 1 << 15  # full-size scores evaluated together: stays in cache, and in one thread of torch
CROWD_SCORES = 1 << 18  # the same where all classes are evaluated
FAR = 1 << 24  # above all class ids; all integers up to it are floats


def decode_cells(scores: Tensor, rows: Taps, columns: Taps, ask: DecodeOptions) -> Prediction:
    """Decode one map (K, h, w) to the H lines of `rows` and the W lines of `columns`."""
    down, across = strips(rows, scores.shape[1]), strips(columns, scores.shape[2])
    out = Prediction.blank((len(rows.first), len(columns.first)), ask, scores)
    per_band = max(1, BAND_SCORES // (len(scores) * scores.shape[2]))
    for start, stop in pairwise([*range(0, len(down), per_band), len(down)]):
        band = down.some(start, stop)
        out.write(slice(int(band.first[0]), int(band.first[-1])), _decode_band(scores, band, across, ask))
    return out


def _decode_band(scores: Tensor, down: Strips, across: Strips, ask: DecodeOptions) -> Prediction:
    """Decode some strips of rows over the whole width."""
    window = (down.taps, across.taps)
    top, bottom = int(down.window[0]), int(down.window[-1]) + down.taps
    scores = scores[:, top:bottom]  # (K, h', w)
    found = candidates(scores, window)
    nodes = cell_nodes(scores, window)
    cell = ((down.window[:, None] - top) * (scores.shape[2] - across.taps + 1) + across.window).flatten()
    padded = Prediction.blank((len(cell), down.slots, across.slots), ask, scores)  # (My * Mx, R, C)
    order = found.count[cell].argsort(descending=True)
    if ask.confidence is None:  # a single class wins unseen
        padded.mask[:] = found.ids[found.start[cell]][:, None, None]
        order = order[: int((found.count[cell] > 1).sum())]
    per_chunk = max(1, BLOCK_SCORES // (down.slots * across.slots))
    for block in order.split(per_chunk) if len(order) else ():
        wy = down.weight.index_select(0, block // len(across))
        wx = across.weight.index_select(0, block % len(across))
        ids, best = winners(found, cell[block], wy, wx)
        if ask.confidence == "probability":
            best = 1 / denominators(scores.flatten(1), nodes[cell[block]], wy, wx, best, ask.temperature)
        padded.scatter(block, Prediction(ids, best))
    return padded.map(lambda blocks: _unpad(blocks, len(across), down.place, across.place))


def _unpad(blocks: Tensor, across: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Put blocks (My * Mx, R, C) side by side and drop the unused slots."""
    _, tall, wide = blocks.shape
    grid = blocks.view(-1, across, tall, wide).transpose(1, 2).reshape(-1, across * wide)  # (My * R, Mx * C)
    return grid.index_select(0, rows).index_select(1, columns)


def winners(found: Candidates, cell: Tensor, wy: Tensor, wx: Tensor) -> tuple[Tensor, Tensor]:
    """Best classes and their scores in blocks of pixels, (B, R, C) each.

    cell: (B,) the cell of each block, those with most classes first. wy: (B, Ty, R), wx: (B, Tx, C) weights.

    Ids ride along as floats, because comparisons with a float result are the fast ones. They ascend inside a
    cell, so the winner is the greatest id among those that were better than all before.
    """
    start, count = found.start[cell], found.count[cell]
    depth = torch.arange(int(count[0]), device=cell.device)
    deep = (count[:, None] > depth).sum(0).tolist()  # blocks with more than j classes
    best = _mix(found.nodes[start], wy, wx)
    ids = found.ids[start].to(best.dtype)[:, None, None].expand_as(best).clone()
    j = 1
    while j < len(deep):
        n = deep[j]
        several = max(1, BLOCK_SCORES // best[:n].numel())  # classes at once where few blocks are left
        take = start[:n] + torch.minimum(depth[j : j + several, None], count[:n] - 1)  # (c, n)
        new, new_ids = _first_best(_mix(found.nodes[take], wy[:n], wx[:n]), found.ids[take])
        old, old_ids = best[:n], ids[:n]
        better = torch.gt(new, old, out=torch.empty_like(new))
        torch.maximum(old_ids, better.mul_(new_ids), out=old_ids)
        torch.maximum(old, new, out=old)
        j += len(take)
    return ids, best


def _first_best(scores: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Greatest of the scores (c, b, R, C) along c, and the lowest of the ids (c, b) that have it. Eats `scores`."""
    if len(scores) == 1:
        return scores[0], ids[0, :, None, None].to(scores.dtype)
    top = scores.amax(0)
    has = torch.eq(scores, top, out=scores)
    return top, FAR - has.mul_(FAR - ids[:, :, None, None]).amax(0)


def denominators(
    scores: Tensor, nodes: Tensor, wy: Tensor, wx: Tensor, best: Tensor, temperature: float
) -> Tensor:
    """Sum over all classes of exp(temperature * (score - best)), (B, R, C).

    scores: (K, hw). nodes: (B, Ty * Tx) where the nodes of each block are in it. The rest as in `winners`.
    """
    total = torch.zeros_like(best)
    blocks = max(1, CROWD_SCORES // (len(scores) * best[0].numel()))
    classes = max(1, CROWD_SCORES // (blocks * best[0].numel()))
    for block in torch.arange(len(best), device=best.device).split(blocks):
        y, x = wy[block], wx[block]
        for some in scores.split(classes):
            corners = some.index_select(1, nodes[block].flatten()).view(
                -1, len(block), wy.shape[1], wx.shape[1]
            )  # (k, b, Ty, Tx)
            total[block] += (_mix(corners, y, x) - best[block]).mul_(temperature).exp_().sum(0)
    return total


def _mix(nodes: Tensor, wy: Tensor, wx: Tensor) -> Tensor:
    """Scores at nodes (.., Ty, Tx) to pixels (.., R, C), without a matrix product that autocast would round."""
    tall = nodes[..., 0, :, None] * wy[..., 0, None, :]  # (.., Tx, R)
    for tap in range(1, wy.shape[-2]):
        tall += nodes[..., tap, :, None] * wy[..., tap, None, :]
    out = tall[..., 0, :, None] * wx[..., 0, None, :]  # (.., R, C)
    for tap in range(1, wx.shape[-2]):
        out += tall[..., tap, :, None] * wx[..., tap, None, :]
    return out


CHUNK_SCORES = 1 << 22  # full-size scores held together where all are computed
SMALL_SCORES = 1 << 20  # below this many, computing all of them is quicker than choosing


@torch.no_grad()
def probabilities(scores: Tensor, temperature: float | None, bias: float | None = None) -> Tensor:
    """Scores (K, ...) as probabilities: a soft-max of temperature x score; with a bias each word's own sigmoid.

    Without a temperature they are shares already, up to their sum.
    """
    if temperature is None:
        return scores.clamp_min(0) / scores.clamp_min(0).sum(0).clamp_min(1e-12)
    if bias is not None:
        return (scores * temperature + bias).sigmoid()
    return (scores * temperature).softmax(0)


def decode(
    scores: Tensor,
    size: Size,
    *,
    via: Size | None = None,
    confidence: Confidence | None = None,
    temperature: float = 100.0,
    threshold: float | None = None,
    void: int = 255,
    wait: bool = True,
) -> Prediction:
    """Best class of each pixel after bilinear upsampling (align_corners=False).

    The mask is that of `F.interpolate(scores, size, mode="bilinear").argmax(1)`, except where classes tie to
    the last bits of their scores, in memory that does not grow with classes x pixels.

    Args:
        scores: (N, K, h, w) floating point, all finite: cosines, or what key smoothing made of them.
        size: (H, W) of the mask in pixels; may be smaller than the map.
        via: (H', W') of the network's input for the official two-step resize, map -> input -> picture.
        confidence: of the winner: "score" (upsampled), "probability" (soft-max over all classes of
            `temperature` x upsampled scores, to about 1e-5), or None.
        temperature: of that soft-max.
        threshold: pixels of lower confidence get the id `void`.
        void: a class that is the background, or an id of no class.
        wait: on a GPU, for the scores to be checked; False leaves that to `Prediction.checked`.

    Returns mask and confidence, (N, H, W) each. Raises UserError if a score is not finite.
    """
    assert scores.dim() == 4, scores.shape
    assert threshold is None or confidence is not None, "a threshold on which confidence?"
    scores = wide(scores)
    highest = max(scores.shape[1] - 1, 0 if threshold is None else void)
    ask = DecodeOptions(confidence, temperature, torch.uint8 if highest <= 255 else torch.int32)
    if scores.is_cuda and scores.dtype == torch.float32 and _triton():
        from denseclip.segment.kernels import decode_cells as on_gpu

        planes = on_gpu(
            scores,
            size,
            via,
            confidence=confidence,
            temperature=temperature,
            threshold=threshold,
            void=void,
            ids=ask.ids,
        )
        if planes is not None:
            found = Prediction(*planes)
            return found.checked() if wait else found
    if not all(torch.isfinite(end) for end in scores.aminmax()):  # which hand on NaN
        raise UserError(NOT_FINITE)
    out = Prediction.blank((len(scores), *size), ask, scores)
    rows, columns = axes(scores, size, via)
    few = max(rows.width, columns.width) <= 3 and cells_pay(scores, size, ask)
    for index, image in enumerate(scores):
        part = decode_cells(image, rows, columns, ask) if few else decode_chunks(image, size, via, ask)
        out.write(index, part)
    if threshold is not None and out.confidence is not None:
        out.mask[out.confidence < threshold] = void
    return out


@lru_cache(maxsize=1)
def _triton() -> bool:
    """Whether there is Triton, which torch brings along where it works."""
    return importlib.util.find_spec("triton") is not None


def cells_pay(scores: Tensor, size: Size, ask: DecodeOptions) -> bool:
    """Whether choosing classes cell by cell is quicker than computing all: on a CPU, with roomy cells."""
    pixels = size[0] * size[1]
    roomy = pixels >= (32 if ask.confidence == "probability" else 8) * scores[0, 0].numel()
    return roomy and scores.shape[1] * pixels >= SMALL_SCORES and scores.device.type == "cpu"


def decode_chunks(scores: Tensor, size: Size, via: Size | None, ask: DecodeOptions) -> Prediction:
    """Decode one map (K, h, w) with a running winner over chunks of classes, computed at full size."""
    best = scores.new_full(size, -torch.inf)
    ids = torch.zeros(size, dtype=torch.int64, device=scores.device)
    total = torch.zeros_like(best)
    chunk = max(1, CHUNK_SCORES // best.numel())
    for first in range(0, len(scores), chunk):
        full = resize(scores[None, first : first + chunk], size, via)[0]  # (k, H, W)
        top, winner = full.max(0)
        ids = torch.where(top > best, winner + first, ids)
        top = torch.maximum(top, best)
        if ask.confidence == "probability":
            total *= ((best - top) * ask.temperature).exp_()
            total += (full - top).mul_(ask.temperature).exp_().sum(0)
        best = top
    return Prediction(ids, total.reciprocal_() if ask.confidence == "probability" else best)
