"""Position tables: one row for the whole picture, then a square grid row by row."""

from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from denseclip.errors import UserError
from denseclip.nets.denseclip.config import Positions

Size = tuple[int, int]


def resize_table(table: Tensor, size: Size) -> Tensor:
    """Table (1 + g*g, C) -> (1 + h*w, C): bilinear (align_corners=False), the first row kept."""
    side = isqrt(len(table) - 1)
    if not torch.compiler.is_exporting() and size == (side, side):  # an exported model takes any size
        return table
    grid = table[1:].T.reshape(1, -1, side, side)  # (1, C, g, g)
    grid = F.interpolate(grid, size, mode="bilinear", align_corners=False)
    return torch.cat([table[:1], grid[0].flatten(1).T])  # (1 + h*w, C)


def table_for(table: Tensor, size: Size, positions: Positions) -> Tensor:
    """The rows for a map of `size` (h, w): (1 + h*w, C), interpolated or the table's top left corner.

    Raises UserError where there is no corner that large.
    """
    if positions == "interpolate":
        return resize_table(table, size)
    side = isqrt(len(table) - 1)
    if max(size) > side:
        raise UserError(
            f"a map of {size[0]}x{size[1]} cells is larger than the {side}x{side} positions that are cropped; "
            "use smaller pictures, or positions='interpolate'"
        )
    grid = table[1:].view(side, side, -1)[: size[0], : size[1]]  # (h, w, C)
    return torch.cat([table[:1], grid.reshape(size[0] * size[1], -1)])
