"""Windows spliced before the last norm into one map of the picture (Shi et al., "Trident", 2024, without SAM)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from denseclip.errors import UserError
from denseclip.segment.attention import DenseEncoder, DenseFeatures
from denseclip.segment.resample import Window


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
