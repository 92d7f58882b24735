"""Regions as polygons that give exactly the same pixels back, holes included.

A polygon has no holes, so each is joined to the outline by a slit, a line of pixels of the region that is walked
there and back. Slits lead left from a hole's leftmost point; holes are taken from left to right, so what a slit
meets is joined already.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.int64]  # (n, 2) x, y


def through_centres(region: NDArray[np.bool_]) -> Points:
    """A closed path through pixel centres; filled with its rim (cv2.fillPoly) it is the region (h, w).

    Parts that do not touch are joined by lines, which such a reader fills, too.
    """
    parts = _parts(region)
    if len(parts) > 1:
        there, back = [np.concatenate([rim, rim[:1]]) for rim in parts], [rim[:1] for rim in parts[-2::-1]]
        parts = [np.concatenate(there + back)]
    return _without_straights(parts[0], 3)


def along_edges(region: NDArray[np.bool_]) -> list[Points]:
    """Closed paths along pixel edges, one for each part; filled without rims (COCO's way) the region (h, w)."""
    doubled = region.repeat(2, 0).repeat(2, 1)  # a rim of centres 2x, 2x + 1 stands for the edges x, x + 1
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
