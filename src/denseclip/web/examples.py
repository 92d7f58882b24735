"""The example pictures: sticker scenes, drawn by the package."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from denseclip.data.stickers import render
from denseclip.errors import UserError

SPLIT, SIDE = "demo", 512
SCENES = (19, 10, 3, 21, 11, 23, 16, 14)
OTHERS = ("dog", "car", "apple", "sky", "brick wall", "snow")  # words that are mostly not there


@dataclass(frozen=True)
class Example:
    """A scene: file name, (H, W, 3) uint8 RGB, words that are in it and some that are not, comma-separated."""

    name: str
    image: NDArray[np.uint8]
    words: str


@cache
def example(index: int) -> Example:
    """Example `index` of the page. Raises UserError if there is none."""
    if not 0 <= index < len(SCENES):
        raise UserError(f"there is no example {index}; choose 0 to {len(SCENES) - 1}")
    scene = render(SPLIT, SCENES[index], side=SIDE)
    words = dict.fromkeys((*scene.names, *OTHERS))
    return Example(f"scene-{SCENES[index]}.png", scene.image, ", ".join(words))


@cache
def thumbnail(index: int, side: int = 128) -> NDArray[np.uint8]:
    """Example `index`, small: (side, side, 3) uint8."""
    import cv2

    small = cv2.resize(example(index).image, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)
