"""Masks of COCO files: polygons and run lengths, checked before they are drawn."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denseclip.data.things import Rle

Box = tuple[float, float, float, float]
_FAR = 16  # how many sides of its image a point may lie outside; drawing takes time and memory for each pixel


class MaskError(ValueError):
    """What is wrong with a mask, without its name."""


@dataclass(frozen=True)
class Segmentation:
    """A mask that is not drawn yet: polygons, (x, y, x, y, ...) in pixels, or run lengths of a mask of `size`."""

    polygons: tuple[tuple[float, ...], ...] = ()
    size: tuple[int, int] | None = None  # height, width
    counts: tuple[int, ...] = ()  # column by column, zeros first

    def draw(self, height: int, width: int) -> Rle:
        """Compressed run lengths of the mask in an image of this size; MaskError if it is not of it."""
        from pycocotools import mask

        if self.size is None:
            limit = _FAR * max(height, width)
            if any(abs(value) > limit for polygon in self.polygons for value in polygon):
                raise MaskError(f"a polygon lies far outside of its image of {height} x {width}")
            return mask.merge(mask.frPyObjects([list(polygon) for polygon in self.polygons], height, width))
        if self.size != (height, width):
            raise MaskError(f"its run lengths are for {list(self.size)}, not {[height, width]}")
        return mask.frPyObjects({"size": [height, width], "counts": list(self.counts)}, height, width)


def parse_segmentation(raw: Any) -> Segmentation | None:  # noqa: ANN401
    """The `segmentation` of an annotation; None for null and []. Raises MaskError for what is neither mask nor none.

    Run lengths that leave out the last run of zeros get it; any other total that is not the image's is a fault.
    """
    if raw is None or raw == []:
        return None
    if isinstance(raw, list):
        polygons = [raw] if not isinstance(raw[0], list) else raw
        return Segmentation(tuple(map(_polygon, polygons)))
    if not isinstance(raw, dict) or "counts" not in raw:
        raise MaskError("its segmentation is neither polygons nor run lengths")
    size = raw.get("size")
    if not isinstance(size, list) or len(size) != 2 or not _whole(size) or min(size) < 1:
        raise MaskError("its run lengths have no size [height, width]")
    counts = raw["counts"]
    runs = unpack(counts) if isinstance(counts, str) else counts
    if (
        not isinstance(runs, list)
        or not _whole(runs)
        or min(runs, default=0) < 0
        or max(runs, default=0) >= 2**32
    ):
        raise MaskError("its run lengths are not whole numbers from 0 on")
    left = size[0] * size[1] - sum(runs)
    if left > 0 and len(runs) % 2 == 0:
        runs = [*runs, left]
    elif left:
        raise MaskError(f"its run lengths add up to {sum(runs)}, not to {size[0]} x {size[1]}")
    return Segmentation(size=(size[0], size[1]), counts=tuple(runs))


def unpack(text: str) -> list[int]:
    """COCO's packed run lengths -> run lengths. Raises MaskError if the text is cut or has other letters.

    Each number is written in groups of 5 bits from the lowest on, bit 6 says that more follow, and from the fourth
    on it is the difference to the one two before (pycocotools, `rleToString`).
    """
    runs: list[int] = []
    value, shift, more = 0, 0, False
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 60:
            raise MaskError("its packed run lengths are damaged")
        value |= (code & 31) << shift
        shift, more = shift + 5, bool(code & 32)
        if more:
            continue
        if code & 16:
            value -= 1 << shift  # negative: the sign is carried on
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    if more:
        raise MaskError("its packed run lengths are cut short")
    return runs


def box_of(runs: Rle | None) -> Box:
    """x, y, width, height around a mask; all 0 if it is empty or there is none."""
    from pycocotools import mask

    if runs is None:
        return 0.0, 0.0, 0.0, 0.0
    x, y, width, height = map(float, mask.toBbox(runs))
    return x, y, width, height


def pixels(runs: Rle) -> int:
    """How many pixels a mask has."""
    from pycocotools import mask

    return int(mask.area(runs))


def paint(ids: NDArray[np.int32], runs: Rle, value: int) -> None:
    """Set the pixels of a mask in ids (H, W)."""
    from pycocotools import mask

    ids[mask.decode(runs).astype(bool)] = value


def _polygon(points: Any) -> tuple[float, ...]:  # noqa: ANN401
    if not isinstance(points, list) or not set(map(type, points)) <= {int, float} or not _finite(points):
        raise MaskError("a polygon is no list of numbers")
    if len(points) < 6 or len(points) % 2:
        raise MaskError(f"a polygon has {len(points)} numbers; it needs x and y of at least 3 points")
    return tuple(points)


def _whole(values: list[Any]) -> bool:
    return set(map(type, values)) <= {int}


def _finite(points: list[float]) -> bool:
    try:
        return all(map(math.isfinite, points))
    except OverflowError:  # a whole number that no float holds
        return False
