"""Regions of a mask: pixels of one class that touch, their boxes, their outlines, and what people ask of each."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from denseclip.errors import UserError

Array = NDArray[np.int64]


@dataclass(frozen=True)
class Regions:
    """R regions of a picture of H x W pixels.

    Of a mask: pixels of one class that touch, corners included, numbered by their first pixel, down the columns from
    the left. Of things: the best first, of any parts, and they may overlap. label: (R,) class. area: (R,) pixels.
    box: (R, 4) x, y, width, height. Their runs, down the columns (which is how COCO counts), are sorted by region
    and place: start, stop: (N,) pixel numbers x * H + y. first: (R + 1,) where each region's runs begin.
    """

    height: int
    width: int
    label: Array
    area: Array
    box: Array
    start: Array
    stop: Array
    first: Array

    def __len__(self) -> int:
        return len(self.label)

    def runs(self, index: int) -> tuple[Array, Array]:
        """Start and stop of one region's runs."""
        part = slice(self.first[index], self.first[index + 1])
        return self.start[part], self.stop[part]

    def counts(self, index: int) -> list[int]:
        """COCO's uncompressed run lengths of one region, those of the outside first."""
        start, stop = self.runs(index)
        edges = np.stack([start, stop], 1).ravel()
        joined = np.flatnonzero(edges[1:-1:2] == edges[2::2])  # a run that goes on in the next column
        edges = np.delete(edges, np.concatenate([2 * joined + 1, 2 * joined + 2]))
        return np.diff(edges, prepend=0, append=self.height * self.width).tolist()

    def crop(self, index: int) -> NDArray[np.bool_]:
        """One region inside its box, (height, width)."""
        x, y, width, height = self.box[index].tolist()
        start, stop = self.runs(index)
        flips = np.zeros((width, height + 1), np.int8)
        column, row = start // self.height - x, start % self.height - y
        flips[column, row] = 1
        flips[column, row + (stop - start)] -= 1
        return np.cumsum(flips[:, :height], 1, dtype=np.int8).astype(bool).T

    def only(self, keep: NDArray[np.bool_]) -> "Regions":
        """The regions at which `keep` (R,) is true."""
        sizes = np.diff(self.first)
        runs = np.repeat(keep, sizes)
        first = np.concatenate([[0], np.cumsum(sizes[keep])])
        label, area, box = self.label[keep], self.area[keep], self.box[keep]
        return replace(
            self, label=label, area=area, box=box, start=self.start[runs], stop=self.stop[runs], first=first
        )

    def paint(self, values: Array) -> NDArray[np.int64]:
        """A plane (H, W) that holds values[r] in region r, the first of those that overlap, and 0 elsewhere."""
        sizes = self.stop - self.start
        pixels = np.arange(sizes.sum()) + np.repeat(self.start - (np.cumsum(sizes) - sizes), sizes)
        each = np.repeat(np.repeat(values, np.diff(self.first)), sizes)
        plane = np.zeros(self.height * self.width, np.int64)
        plane[pixels[::-1]] = each[::-1]  # of what is assigned twice, the last stays
        return plane.reshape(self.width, self.height).T

    def means(self, plane: NDArray[np.floating]) -> NDArray[np.float64]:
        """The mean of a plane (H, W) over each region, (R,)."""
        total = np.concatenate([[0.0], np.cumsum(plane.T.ravel(), dtype=np.float64)])
        sums = np.add.reduceat(total[self.stop] - total[self.start], self.first[:-1]) if len(self) else 0
        return np.asarray(sums) / np.maximum(self.area, 1)


def find_regions(mask: NDArray[np.integer], leave_out: tuple[int, ...] = ()) -> Regions:
    """The regions of a mask (H, W), but not those of the ids `leave_out`."""
    height, width = mask.shape
    columns = np.ascontiguousarray(mask.T)  # (W, H)
    begins = np.ones((width, height), bool)
    np.not_equal(columns[:, 1:], columns[:, :-1], out=begins[:, 1:])
    start = np.flatnonzero(begins)
    stop = np.append(start[1:], width * height)
    label = columns.ravel()[start].astype(np.int64)
    group = _connected(_touching(columns, begins), len(start))
    keep = ~np.isin(label, leave_out)
    start, stop, label, group = start[keep], stop[keep], label[keep], group[keep]
    order = np.argsort(group, kind="stable")
    return _grouped(height, width, start[order], stop[order], label[order], group[order])


def stack_regions(planes: Iterable[NDArray[np.bool_]], height: int, width: int) -> Regions:
    """A region for each of some masks (H, W) that has pixels; its label is the number of the mask."""
    none = np.zeros(0, np.int64)
    starts, stops, numbers = [none], [none], [none]
    for number, plane in enumerate(planes):
        steps = np.diff(plane.T.astype(np.int8), prepend=0, append=0)  # (W, H + 1)
        for places, sign in ((starts, 1), (stops, -1)):
            column, row = np.nonzero(steps == sign)
            places.append(column * height + row)
        numbers.append(np.full(len(starts[-1]), number))
    group = np.concatenate(numbers)
    return _grouped(height, width, np.concatenate(starts), np.concatenate(stops), group, group)


def _grouped(height: int, width: int, start: Array, stop: Array, label: Array, group: Array) -> Regions:
    """Regions from their runs, each with its region's label and number, sorted by number and place."""
    first = np.append(np.flatnonzero(np.diff(group, prepend=-1)), len(group))
    if not len(group):
        none = np.zeros(0, np.int64)
        return Regions(
            height, width, none, none, np.zeros((0, 4), np.int64), none, none, np.zeros(1, np.int64)
        )
    at = first[:-1]
    x, top = start // height, start % height
    bottom = top + (stop - start)
    left, upper = np.minimum.reduceat(x, at), np.minimum.reduceat(top, at)
    right, lower = np.maximum.reduceat(x, at) + 1, np.maximum.reduceat(bottom, at)
    box = np.stack([left, upper, right - left, lower - upper], 1)
    area = np.add.reduceat(stop - start, at)
    return Regions(height, width, label[at], area, box, start, stop, first)


def _touching(columns: NDArray[np.integer], begins: NDArray[np.bool_]) -> Array:
    """Pairs of runs of one class in neighboring columns that share an edge or a corner, (M, 2)."""
    run = np.cumsum(begins.ravel(), dtype=np.int32).reshape(begins.shape) - 1  # (W, H)
    height = begins.shape[1]
    pairs = []
    for shift in (0, 1, -1):
        here = np.s_[:-1, max(0, -shift) : height - max(0, shift)]
        there = np.s_[1:, max(0, shift) : height - max(0, -shift)]
        touch = columns[here] == columns[there]
        if shift == 0:  # every further pixel of the same two runs says the same
            touch[:, 1:] &= (begins[here] | begins[there])[:, 1:]
        else:
            touch &= begins[here if shift < 0 else there]
        pairs.append(np.stack([run[here][touch], run[there][touch]], 1))
    return np.concatenate(pairs).astype(np.int64)


def _connected(pairs: Array, count: int) -> Array:
    """The lowest member of each of `count` members' connected group: hooking and pointer jumping."""
    parent = np.arange(count)
    a, b = pairs[:, 0], pairs[:, 1]
    while len(a):
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while True:
            above = parent[parent]
            if np.array_equal(above, parent):
                break
            parent = above
        a, b = parent[a], parent[b]
        open_ = a != b
        a, b = a[open_], b[open_]
    return parent


Points = NDArray[np.int64]  # (n, 2) x, y


def through_centers(region: NDArray[np.bool_]) -> Points:
    """A closed path through pixel centers; filled with its rim (cv2.fillPoly) it is the region (h, w).

    Parts that do not touch are joined by lines, which such a reader fills, too.
    """
    parts = _parts(region)
    if len(parts) > 1:
        there, back = [np.concatenate([rim, rim[:1]]) for rim in parts], [rim[:1] for rim in parts[-2::-1]]
        parts = [np.concatenate(there + back)]
    return _without_straights(parts[0], 3)


def along_edges(region: NDArray[np.bool_]) -> list[Points]:
    """Closed paths along pixel edges, one for each part; filled without rims (COCO's way) the region (h, w)."""
    doubled = region.repeat(2, 0).repeat(2, 1)  # a rim of centers 2x, 2x + 1 stands for the edges x, x + 1
    return [_without_straights((rim + 1) // 2, 4) for rim in _parts(doubled)]


def _parts(region: NDArray[np.bool_]) -> list[Points]:
    """The rim of each connected part of a region (h, w), pixel by pixel, with all its holes joined to it."""
    contours, levels = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rims = [contour[:, 0].astype(np.int64) for contour in contours]
    holes: dict[int, list[Points]] = {k: [] for k, level in enumerate(levels[0]) if level[3] < 0}
    for rim, level in zip(rims, levels[0], strict=True):
        if level[3] >= 0:
            holes[int(level[3])].append(_from_leftmost(rim))
    return [
        _slit(region, rims[k], sorted(inside, key=lambda hole: (hole[0, 0], hole[0, 1])))
        if inside
        else rims[k]
        for k, inside in holes.items()
    ]


def _slit(region: NDArray[np.bool_], outer: Points, holes: list[Points]) -> Points:
    """Insert each hole, and the way to it and back, where its slit meets what is there."""
    after: dict[tuple[int, int], list[Points]] = {}
    for hole in holes:
        x, y = hole[0].tolist()
        outside = np.flatnonzero(~region[y, :x])
        meets = int(outside[-1]) + 1 if len(outside) else 0
        after.setdefault((meets, y), []).append(np.concatenate([hole, hole[:1]]))
    pieces: list[Points] = []
    walks = [iter(outer)]
    while walks:
        point = next(walks[-1], None)
        if point is None:
            walks.pop()
            continue
        pieces.append(point)
        waiting = after.pop((int(point[0]), int(point[1])), [])
        if waiting:
            walks.append(iter(np.concatenate([part for hole in waiting for part in (hole, point[None])])))
    assert not after, "every slit meets a rim"
    return np.stack(pieces)


def _from_leftmost(rim: Points) -> Points:
    """A rim that starts at its leftmost point, the topmost of these."""
    return np.roll(rim, -int(np.lexsort((rim[:, 1], rim[:, 0]))[0]), axis=0)


def _without_straights(path: Points, least: int) -> Points:
    """Only the points where a closed path turns or goes back, at least `least` points."""
    path = path[np.any(path != np.roll(path, 1, 0), axis=1)] if len(path) > 1 else path
    if len(path) > 2:
        before, after = path - np.roll(path, 1, 0), np.roll(path, -1, 0) - path
        turns = (before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]) | ((before * after).sum(1) < 0)
        path = path[turns]
    if len(path) < least:
        path = path[np.arange(least) % max(1, len(path))]
    return path


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
