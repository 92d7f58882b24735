"""Which classes can win between neighbouring nodes of a score map.

All pixels between the same neighbouring nodes (a cell) mix the same few scores of each class, with
non-negative weights that sum to one and are the same for all classes. So a class that is nowhere above another
one at the nodes of a cell cannot win inside it.

Here and in `decode_cells` `index_select` stands for indexing, because it does not wake other threads for little:
on a busy machine waiting for them takes longer than all the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Window = tuple[int, int]
CHUNK_SCORES = 1 << 15  # scores compared together: stays in cache, and in one thread of torch


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
    tall = max(1, CHUNK_SCORES // (len(scores) * scores.shape[2]))
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
