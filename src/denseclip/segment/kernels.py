"""Upsample + argmax on a GPU: one Triton kernel that reads scores at map resolution and writes the mask only.

Importing this needs Triton; `decode` falls back to plain torch without it.
"""
# ruff: noqa: ANN001, ANN202, N803
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from denseclip.segment.resample import Size, strips, taps

MOST_TAPS = 3
CLASSES = 64  # looked at together when classes that cannot win are skipped
NEGLIGIBLE = (
    25.0  # exp(-25) = 1.4e-11 of the winner's share: 10,000 such classes change no float32 probability
)


@triton.jit
def _corners(cell, k, K, step_y, step_x, TY: tl.constexpr, TX: tl.constexpr):
    """Lowest and highest node of the classes k in a cell, and their sum times zero: NaN if one is not finite."""
    inside = k < K
    low = tl.full(k.shape, float("inf"), tl.float32)
    high = tl.full(k.shape, float("-inf"), tl.float32)
    bad = tl.zeros(k.shape, tl.float32)
    for y in tl.static_range(TY):
        for x in tl.static_range(TX):
            node = tl.load(cell + y * step_y + x * step_x + k, mask=inside, other=0.0)
            low = tl.minimum(low, node)
            high = tl.maximum(high, node)
            bad += node * 0.0
    return tl.where(inside, low, float("-inf")), tl.where(inside, high, float("-inf")), bad


@triton.jit
def _pixels(
    cell,
    step_y,
    step_x,
    wy,
    wx,
    R: tl.constexpr,
    C: tl.constexpr,
    TY: tl.constexpr,
    TX: tl.constexpr,
):
    """The pixels (R, C) of one class in a cell: rows are mixed first, then columns, as on a CPU."""
    r, c = tl.arange(0, R), tl.arange(0, C)
    out = tl.zeros((R, C), tl.float32)
    for x in tl.static_range(TX):
        tall = tl.zeros((R,), tl.float32)
        for y in tl.static_range(TY):
            tall += tl.load(cell + y * step_y + x * step_x) * tl.load(wy + y * R + r)
        out += tall[:, None] * tl.load(wx + x * C + c)[None, :]
    return out


@triton.jit
def _decode_cells(
    scores,
    row_window,
    row_first,
    row_weight,
    column_window,
    column_first,
    column_weight,
    mask,
    confidence,
    broken,
    across,
    K,
    h,
    w,
    H,
    W,
    temperature,
    margin,
    threshold,
    void,
    KIND: tl.constexpr,
    CUT: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    TY: tl.constexpr,
    TX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One cell of one picture: output lines that read the same TY x TX nodes of `scores` (B, h, w, K).

    A class wins nowhere in the cell if its highest node is below the lowest node of another class.
    """
    m, n = tl.program_id(0) // across, tl.program_id(0) % across
    b = tl.program_id(1).to(tl.int64)
    step_y, step_x = w * K, K
    cell = scores + (b * h + tl.load(row_window + m)) * step_y + tl.load(column_window + n) * step_x
    wy, wx = row_weight + m * TY * R, column_weight + n * TX * C
    k = tl.arange(0, BLOCK)

    floor = float("-inf")  # what the winner reaches everywhere in the cell
    bad = 0.0
    for start in range(0, K, BLOCK):
        low, _, unfit = _corners(cell, start + k, K, step_y, step_x, TY, TX)
        floor = tl.maximum(floor, tl.max(low))
        bad += tl.sum(unfit)
    tl.store(broken, 1, mask=bad != bad)

    best = tl.full((R, C), float("-inf"), tl.float32)
    ids = tl.zeros((R, C), tl.int32)
    for start in range(0, K, BLOCK):
        _, high, _ = _corners(cell, start + k, K, step_y, step_x, TY, TX)
        if tl.max(high) >= floor:
            for one in range(start, tl.minimum(start + BLOCK, K)):
                peak = float("-inf")
                for y in tl.static_range(TY):
                    for x in tl.static_range(TX):
                        peak = tl.maximum(peak, tl.load(cell + y * step_y + x * step_x + one))
                if peak >= floor:
                    score = _pixels(cell + one, step_y, step_x, wy, wx, R, C, TY, TX)
                    ids = tl.where(score > best, one, ids)  # the first of equals stays
                    best = tl.maximum(best, score)

    if KIND == "probability":
        total = tl.zeros((R, C), tl.float32)
        for start in range(0, K, BLOCK):
            _, high, _ = _corners(cell, start + k, K, step_y, step_x, TY, TX)
            if tl.max(high) >= floor - margin:
                for one in range(start, tl.minimum(start + BLOCK, K)):
                    peak = float("-inf")
                    for y in tl.static_range(TY):
                        for x in tl.static_range(TX):
                            peak = tl.maximum(peak, tl.load(cell + y * step_y + x * step_x + one))
                    if peak >= floor - margin:
                        score = _pixels(cell + one, step_y, step_x, wy, wx, R, C, TY, TX)
                        total += tl.exp((score - best) * temperature)
        best = 1.0 / total

    top, left = tl.load(row_first + m), tl.load(column_first + n)
    row = top + tl.arange(0, R)[:, None]
    column = left + tl.arange(0, C)[None, :]
    inside = (row < tl.load(row_first + m + 1)) & (column < tl.load(column_first + n + 1))
    place = b * H * W + row * W + column
    if KIND != "none":
        tl.store(confidence + place, best, mask=inside)
        if CUT:
            ids = tl.where(best < threshold, void, ids)
    tl.store(mask + place, ids, mask=inside)


class _Axis(NamedTuple):
    """Strips of one axis on a device: see `resample.Strips`; weight (M, T, R) with R a power of two."""

    window: Tensor
    first: Tensor
    weight: Tensor


@lru_cache(maxsize=512)  # a few kilobytes each; data sets have hundreds of picture sizes
def _axis(n_in: int, n_out: int, via: int | None, device: torch.device) -> _Axis | None:
    """Made on the CPU, whose rounding the mask then shares; None for resizes that mix too many lines."""
    axis = taps(n_in, n_out, via, torch.float32, torch.device("cpu"))
    if axis.width > MOST_TAPS:
        return None
    cut = strips(axis, n_in)
    slots = triton.next_power_of_2(cut.slots)
    weight = torch.zeros(len(cut), cut.taps, slots)
    weight[..., : cut.slots] = cut.weight
    return _Axis(
        cut.window.to(device, torch.int32), cut.first.to(device, torch.int32), weight.to(device).contiguous()
    )


def decode_cells(
    scores: Tensor,
    size: Size,
    via: Size | None,
    *,
    confidence: str | None,
    temperature: float,
    threshold: float | None,
    void: int,
    ids: torch.dtype,
) -> tuple[Tensor, Tensor | None, Tensor] | None:
    """What `decode.decode` says of scores (N, K, h, w) float32; None for resizes that mix too many lines.

    Fields of `decode.Prediction`: mask (N, H, W) uint8 or int32, confidence (N, H, W) float32 or None, and
    broken (1,) int32, 1 where a score is not finite; it is on the device, as nothing here waits for it.

    Fastest where the classes lie next to each other in memory.
    """
    count, classes, h, w = scores.shape
    high, wide = via or (None, None)
    rows, columns = _axis(h, size[0], high, scores.device), _axis(w, size[1], wide, scores.device)
    if rows is None or columns is None:
        return None
    nodes = scores.permute(0, 2, 3, 1).contiguous()  # (N, h, w, K)
    mask = torch.empty((count, *size), dtype=ids, device=scores.device)
    found = None if confidence is None else torch.empty((count, *size), device=scores.device)
    broken = torch.zeros(1, dtype=torch.int32, device=scores.device)
    grid = (len(rows.window) * len(columns.window), count)
    pixels = rows.weight.shape[2] * columns.weight.shape[2]
    launch: Any = _decode_cells[grid]
    launch(
        nodes,
        *(rows.window, rows.first, rows.weight),
        *(columns.window, columns.first, columns.weight),
        mask,
        mask if found is None else found,
        broken,
        *(len(columns.window), classes, h, w, *size),
        *(temperature, NEGLIGIBLE / temperature, 0.0 if threshold is None else threshold, void),
        KIND=confidence or "none",
        CUT=threshold is not None,
        R=rows.weight.shape[2],
        C=columns.weight.shape[2],
        TY=rows.weight.shape[1],
        TX=columns.weight.shape[1],
        BLOCK=min(CLASSES, triton.next_power_of_2(classes)),
        num_warps=max(1, min(8, pixels // 256)),
    )
    return mask, found, broken
