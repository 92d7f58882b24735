"""Upsample and argmax on a CPU: in each cell of the low-resolution grid only classes that can win there.

The full-size scores never exist, and few of them are computed: on score maps of real models one class is left
in most cells and about two on average, on white noise a third of all.
"""

from itertools import pairwise

import torch
from torch import Tensor

from denseclip.segment.candidates import Candidates, candidates, cell_nodes
from denseclip.segment.pixels import Ask, Decoded
from denseclip.segment.resample import Taps
from denseclip.segment.strips import Strips, strips

BAND_SCORES = 1 << 20  # low-resolution scores pruned together: bounds the memory of the pruning
BLOCK_SCORES = 1 << 15  # full-size scores evaluated together: stays in cache, and in one thread of torch
CROWD_SCORES = 1 << 18  # the same where all classes are evaluated
FAR = 1 << 24  # above all class ids; all integers up to it are floats


def decode_cells(scores: Tensor, rows: Taps, columns: Taps, ask: Ask) -> Decoded:
    """Decode one map (K, h, w) to the H lines of `rows` and the W lines of `columns`."""
    down, across = strips(rows, scores.shape[1]), strips(columns, scores.shape[2])
    out = Decoded.blank((len(rows.first), len(columns.first)), ask, scores)
    per_band = max(1, BAND_SCORES // (len(scores) * scores.shape[2]))
    for start, stop in pairwise([*range(0, len(down), per_band), len(down)]):
        band = down.some(start, stop)
        out.write(slice(int(band.first[0]), int(band.first[-1])), _decode_band(scores, band, across, ask))
    return out


def _decode_band(scores: Tensor, down: Strips, across: Strips, ask: Ask) -> Decoded:
    """Decode some strips of rows over the whole width."""
    window = (down.taps, across.taps)
    top, bottom = int(down.window[0]), int(down.window[-1]) + down.taps
    scores = scores[:, top:bottom]  # (K, h', w)
    found = candidates(scores, window)
    nodes = cell_nodes(scores, window)
    cell = ((down.window[:, None] - top) * (scores.shape[2] - across.taps + 1) + across.window).flatten()
    padded = Decoded.blank((len(cell), down.slots, across.slots), ask, scores)  # (My * Mx, R, C)
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
        padded.scatter(block, Decoded(ids, best))
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
