"""Anchors at fixed strides, with whole or exact sides."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

RATIOS = (0.5, 1.0, 2.0)  # height / width
RETINA_STRIDES = (8, 16, 32, 64, 128)
RPN_STRIDES = (4, 8, 16, 32, 64)


class Anchors(AnchorGenerator):
    """Torchvision's anchors, but a level's stride is given and not guessed from rounded sizes.

    torchvision divides the image's side by the map's: at 800 pixels its strides of P6 and P7 are 61 and 114 in place
    of 64 and 128. rounded: whole sides, as torchvision has them.
    """

    def __init__(self, sizes: Sequence[Sequence[float]], strides: Sequence[int], *, rounded: bool) -> None:
        self.rounded, self.strides = rounded, tuple(strides)
        levels = tuple(tuple(level) for level in sizes)
        super().__init__(levels, (RATIOS,) * len(levels))

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        """(ratios x scales, 4) boxes around the origin."""
        sides = torch.as_tensor(scales, dtype=dtype, device=device)
        tall = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        heights = (tall[:, None] * sides).flatten()
        widths = (sides / tall[:, None]).flatten()
        boxes = torch.stack([-widths, -heights, widths, heights], dim=1) / 2
        return boxes.round() if self.rounded else boxes

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """For each image (A, 4) boxes in pixels, level after level."""
        device = feature_maps[0].device
        self.set_cell_anchors(torch.float32, device)
        grids = [list(one.shape[-2:]) for one in feature_maps]
        steps = [[torch.tensor(s, device=device)] * 2 for s in self.strides[: len(grids)]]
        every = torch.cat(self.grid_anchors(grids, steps))  # (A, 4)
        return [every] * len(image_list.image_sizes)

    def at(self, level: int, feature_map: Tensor) -> Tensor:
        """(A, 4) of one level; in operations that an export with sizes left open can follow."""
        device, stride = feature_map.device, self.strides[level]
        rows, columns = (torch.arange(side, device=device) * stride for side in feature_map.shape[-2:])
        y, x = (axis.flatten() for axis in torch.meshgrid(rows, columns, indexing="ij"))  # (h w)
        centres = torch.stack([x, y, x, y], dim=1)[:, None].float()  # (h w, 1, 4)
        return (centres + self.cell_anchors[level].to(device, torch.float32)).flatten(0, 1)


def retina_anchors(*, rounded: bool) -> Anchors:
    """Nine a cell: three parts of an octave, three ratios; whole sides are truncated first, as in torchvision."""
    octaves = [[4 * stride * 2 ** (i / 3) for i in range(3)] for stride in RETINA_STRIDES]
    sizes = [[int(side) for side in level] for level in octaves] if rounded else octaves
    return Anchors(sizes, RETINA_STRIDES, rounded=rounded)


def rpn_anchors(*, rounded: bool) -> Anchors:
    """Three a cell, of 8 strides."""
    return Anchors([[8 * stride] for stride in RPN_STRIDES], RPN_STRIDES, rounded=rounded)
