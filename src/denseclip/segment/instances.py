"""Things of a mask: its connected regions, each with what people ask of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from denseclip.errors import UserError
from denseclip.segment.regions import Points, along_edges, find_regions


@dataclass(frozen=True)
class Instance:
    """A connected region of one class.

    label: the class's id in the mask. area: pixels. box: x, y, width, height in pixels. score: the mean over the
    region's own pixels of its class's probability, 0..1. inside: (height, width) bool, the region within its box.
    """

    name: str
    label: int
    area: int
    box: tuple[int, int, int, int]
    score: float
    inside: NDArray[np.bool_]

    def mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """The region in the whole picture (height, width)."""
        x, y, w, h = self.box
        plane = np.zeros((height, width), bool)
        plane[y : y + h, x : x + w] = self.inside
        return plane

    def polygons(self, tolerance: float = 0.0) -> list[Points]:
        """Closed paths (n, 2) of x, y along pixel edges, one for each part, holes joined by slits.

        tolerance: pixels that a path may stray from the outline (Douglas & Peucker, 1973); 0 for none.
        Raises UserError for a negative one.
        """
        if tolerance < 0:
            raise UserError(f"tolerance {tolerance:g} is no distance; give pixels, 0 for exact outlines")
        paths = [path + np.array(self.box[:2]) for path in along_edges(self.inside)]
        if not tolerance:
            return paths
        simple = [
            cv2.approxPolyDP(path.astype(np.int32), tolerance, closed=True)[:, 0].astype(np.int64)
            for path in paths
        ]
        return [few if len(few) > 2 else path for few, path in zip(simple, paths, strict=True)]


def find_instances(
    mask: NDArray[np.integer],
    classes: Sequence[str],
    share_of: Callable[[int], NDArray[np.floating]],
    *,
    leave_out: tuple[int, ...] = (),
    min_area: int = 1,
    fill_holes: bool = False,
) -> list[Instance]:
    """The regions of a mask (H, W) of at least `min_area` pixels, the largest first.

    share_of: a class's probability at every pixel, (H, W), asked for once a class. leave_out: ids that are nothing.
    fill_holes: what a region encloses is its own; areas are those after it, and instances may then overlap.
    Raises UserError for a `min_area` below 1.
    """
    if min_area < 1:
        raise UserError(f"min_area {min_area} is no number of pixels; give 1 or more")
    regions = find_regions(mask, leave_out)
    found = []
    scores = np.zeros(len(regions))
    for label in np.unique(regions.label):
        own = regions.label == label
        scores[own] = regions.only(own).means(share_of(int(label)))
    for index in range(len(regions)):
        label = int(regions.label[index])
        if regions.area[index] < min_area and not fill_holes:
            continue
        inside = regions.crop(index)
        if fill_holes:
            outer, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            plane = np.zeros(inside.shape, np.uint8)
            inside = cv2.drawContours(plane, outer, -1, color=1, thickness=cv2.FILLED).astype(bool)
        area = int(inside.sum())
        if area >= min_area:
            x, y, w, h = regions.box[index].tolist()
            found.append(Instance(classes[label], label, area, (x, y, w, h), float(scores[index]), inside))
    return sorted(found, key=lambda one: -one.area)
