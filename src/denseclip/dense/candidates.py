"""Which classes can win between neighbouring nodes of a score map.

All pixels between the same neighbouring nodes (a cell) mix the same few scores of each class, with
non-negative weights that sum to one and are the same for all classes. So a class that is nowhere above another
one at the nodes of a cell cannot win inside it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Window = tuple[int, int]


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
    low, high = _fold(scores, window, torch.minimum), _fold(scores, window, torch.maximum)  # (K, h', w')
    floor = low.amax(0)  # some class is at least that high all over the cell
    cell, ids = (high >= floor).flatten(1).T.nonzero(as_tuple=True)
    node = cell_nodes(scores, window)
    pairs = _Pairs(cell, ids, scores.flatten(1)[ids[:, None], node[cell]])
    pairs = _undominated(pairs, len(node), pairs.nodes.amin(1))
    pairs = _undominated(pairs, len(node), pairs.nodes.sum(1))
    count = torch.bincount(pairs.cell, minlength=len(node))
    return Candidates(count, count.cumsum(0) - count, pairs.ids, pairs.nodes.view(-1, *window))


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
    holds = index[strength == greatest[pairs.cell]]
    rival = holds.new_empty(cells).scatter_reduce_(0, pairs.cell[holds], holds, "amin", include_self=False)
    rival = rival[pairs.cell]  # (P,) the lowest class where several are strongest
    keep = (pairs.nodes > pairs.nodes[rival]).any(1) | (index == rival)
    return _Pairs(pairs.cell[keep], pairs.ids[keep], pairs.nodes[keep])
