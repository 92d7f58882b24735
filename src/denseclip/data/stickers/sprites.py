"""The sprites that scenes are made of, in one atlas."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

ASSETS = Path(__file__).parents[2] / "assets" / "stickers"
ATLAS = ASSETS / "sprites.webp"
SIDE, COLUMNS = 96, 26

# Hue in degrees, saturation factor, value factor; None keeps the pixel's own hue.
COLORS: dict[str, tuple[float | None, float, float]] = {
    "red": (0, 1.0, 0.9),
    "orange": (28, 1.0, 1.0),
    "yellow": (54, 0.95, 1.05),
    "green": (125, 0.9, 0.8),
    "blue": (222, 1.0, 0.95),
    "purple": (278, 0.9, 0.85),
    "pink": (328, 0.55, 1.1),
    "black": (None, 0.0, 0.3),
    "white": (None, 0.0, 1.5),
}
# Things whose picture is recognized by its shape, so that any color may be given to it.
RECOLORABLE = frozenset(
    """car,bus,truck,balloon,t-shirt,dress,umbrella,hat,handbag,backpack,cup,sofa,bird,fish,butterfly,bicycle,door,
    shoe,necktie,tulip,rose,helicopter,tractor,airplane,bell,key,heart,star,boot,socks,gloves,scarf,cap,coat,suv,
    kite,crayon,bucket,shorts,motorboat,train,horse,cat,dog""".replace("\n    ", "").split(",")
)


@dataclass(frozen=True)
class SpriteEntry:
    """One line of the sprite list."""

    codepoint: int
    name: str
    common: bool


@cache
def read_list() -> tuple[SpriteEntry, ...]:
    """The sprite list, in atlas order."""
    lines = (ASSETS / "sprites.tsv").read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return tuple(SpriteEntry(int(code, 16), name, common == "1") for code, name, common in rows)


@cache
def sprite_names(*, common: bool | None = None) -> tuple[str, ...]:
    """Names of all sprites, or only of the common or the rare ones."""
    return tuple(e.name for e in read_list() if common is None or e.common == common)


@cache
def _atlas() -> np.ndarray:
    with Image.open(ATLAS) as picture:
        return np.asarray(picture.convert("RGBA"))


@cache
def _index() -> dict[str, int]:
    return {entry.name: i for i, entry in enumerate(read_list())}


@cache
def pyramid(name: str, color: str | None = None) -> tuple[np.ndarray, ...]:
    """A sprite at `SIDE`, `SIDE`/2 and `SIDE`/4 pixels, alpha premultiplied.

    Returns float32 arrays (s, s, 4), RGBA in 0..255. Raises KeyError for an unknown name or color.
    """
    i = _index()[name]
    y, x = i // COLUMNS * SIDE, i % COLUMNS * SIDE
    rgba = _atlas()[y : y + SIDE, x : x + SIDE].astype(np.float32)
    if color is not None:
        rgba[..., :3] = recolor(rgba[..., :3], color)
    rgba[..., :3] *= rgba[..., 3:] / 255.0
    levels: list[np.ndarray] = [rgba]
    while len(levels) < 3:
        levels.append(np.asarray(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)))
    return tuple(levels)


def recolor(rgb: np.ndarray, color: str) -> np.ndarray:
    """Give the colored pixels of (h, w, 3) float RGB in 0..255 the named hue; grays stay gray."""
    hue, saturation, value = COLORS[color]
    hsv = cv2.cvtColor(rgb.astype(np.float32) / 255.0, cv2.COLOR_RGB2HSV)  # H in degrees, S and V in 0..1
    strength = np.clip((hsv[..., 1] - 0.15) / 0.2, 0.0, 1.0)[..., None]
    if hue is not None:
        hsv[..., 0] = hue
        hsv[..., 1] = np.maximum(hsv[..., 1], 0.6)
    hsv[..., 1] = np.clip(hsv[..., 1] * saturation, 0, 1)
    hsv[..., 2] = np.clip(hsv[..., 2] * value, 0, 1)
    painted = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255.0
    return rgb * (1 - strength) + painted * strength
