"""Makes the color table of `denseclip.segment.paint`: python tools/make_palette.py

Greedy: the next color is the one farthest, in CIELAB, from those before it, as people with full color vision, with
protanopia and with deuteranopia see them; from the last few it keeps a much larger distance.
"""

import numpy as np
from numpy.typing import NDArray

from denseclip.segment.paint import DEFICIENCIES, cielab

COUNT, NEIGHBORS = 256, 8
FAR = 4  # how much farther from its neighbors in the list than from all
EARLY, VIVID = (
    40,
    20,
)  # colors of which all count as neighbors, which pictures rarely have more of; vivid ones
WEIGHTS = (1.0, 2.0, 2.0)  # of the kinds of sight; the reduced ones have less room
SPECIAL = np.array([[0, 0, 0], [255, 255, 255], [128, 128, 128]])  # background, edges, void


def make() -> NDArray[np.uint8]:
    """(256, 3) RGB."""
    axis = np.arange(0, 256, 15)
    rgb = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    lab = cielab(rgb)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    usable = (lab[:, 0] > 30) & (lab[:, 0] < 88) & (chroma > 20) & (chroma < 98)
    rgb, chroma = rgb[usable], chroma[usable]
    sights = (None, *DEFICIENCIES)

    def distance(color: NDArray[np.integer]) -> NDArray[np.float64]:
        gaps = [np.linalg.norm(cielab(rgb, s) - cielab(color, s), axis=1) for s in sights]
        return np.min([gap * weight for gap, weight in zip(gaps, WEIGHTS, strict=True)], axis=0)

    chosen = [int(np.abs(rgb - (225, 45, 45)).sum(1).argmin())]
    rows = [distance(rgb[chosen[0]])]
    nearest = np.min([rows[0], *(0.9 * distance(color) for color in SPECIAL)], axis=0)
    while len(chosen) < COUNT:
        early = len(chosen) < EARLY
        score = np.minimum(nearest, np.min(rows[-NEIGHBORS:], axis=0) / (1 if early else FAR))
        if len(chosen) < VIVID:
            score *= 1 + 0.25 * np.minimum(chroma, 90) / 90
        score[chosen] = -1
        chosen.append(int(score.argmax()))
        rows.append(distance(rgb[chosen[-1]]))
        nearest = np.minimum(nearest, rows[-1])
    return rgb[chosen].astype(np.uint8)


if __name__ == "__main__":
    table = make().tobytes().hex()
    for start in range(0, len(table), 96):
        print(f'    "{table[start : start + 96]}"')
