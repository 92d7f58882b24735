"""Colors of classes: one list for all pictures, far apart to most eyes, and PASCAL VOC's for files that need it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from denseclip.text import BACKGROUND

Array = NDArray[np.uint8]

PALETTE: Array = np.frombuffer(
    bytes.fromhex(
        "e12d2d4b2dd2b4f000ff87f000e187005ab4e18700870f69e1d25a872d2d5a964bd25aff00d2c3a578b4c31e5a785a0f"
        "4bc32d870096ffc3ffa5e1b400694b4b5a87ffa57800b4e1c38778f078a5a569d2f000a51e7887003cb4f0695ad25a00"
        "b4d22d005aff1e962de1b45a4bd2960087f078d2e1964bd2693c5a4b4b0fb4e11eff0f5af0d278ffa5a5f0692d78c3ff"
        "965aff693c87784b1ef05ac31e5a4bffd24b96f0a5e1a5b4ff875a870fc35a3c693c87003ca5e14b785a00f0ffe1d296"
        "ff6996d2a51e005ae1781e789600000087d2693c3c69f0e196f087ff0f87f0963c693cd24b783ca52d967896f0b4000f"
        "00c3d2ffb4a5875a692dd25ac3c3002d874bb400a578b4ffd20f0078e1e19678ff785a78ff7887a5d24b00784bb400c3"
        "692d87a5871e3cf0d23ca5c3f01e96e19678a5f0691e5a2d2d4be1a52db4ff3c1eb4e1c3c3a5d2e10f69f08769783c78"
        "96f04b5a69f00069b478692d69d2a54be1ffd24b78b496b4ffb478c3c33cc387ffe10fc3784b3c69873c690fb4b42d78"
        "87c3e12db496f0b48700c33c7869b4693c1ed26969781ea51e4b6969c3f0ff69b4ffc3d296963c7878e100691eb45a69"
        "4bf05a872d9669d278f04ba587a5d2f0003c3c69d2f0b4b4789669963c69d2961ec3d2693c4bf04b87a5c30f2d5a4ba5"
        "f0a5c396785ac35ae1e1783cd20087962d4b9696d2ffd2a53c3ca54bc3c387693ca54be169b469c32d96c369879687d2"
        "e1a54bffc3f000d2b4a5001e694bd287965a5af096c35a965aa5ffffb44ba5e1f0ff00c3a54b1e692d9687b487e11e5a"
        "7869a5960f5a0fb4f0f0a5d22d69e1d2691e0f878700c3965a693c3c69a5874b5aff69e1c3c369694bc34ba53c5aa5a5"
        "ff878769691e6978b4a56978f0a5f0ffd2695a5af0873c877800a55ab45ab4c3965a87c3c37878d2c3f096782da569f0"
        "871e4b2d69783cc34ba5e187d22db4b45a4bd287c32de1b496a5f03c3cc3c39678e1964be1e1870087962d782d5a87ff"
        "f096c34b96d2a50fb4ffc3b4b4964bff962d964b7887f078ff5ae1e10f1ed2786900a596a5d2964b3c8700f0c3960f69"
    ),
    np.uint8,
).reshape(-1, 3)
"""256 colors RGB, made by tools/make_palette.py; neighbors in the list are far apart."""


def background_of(classes: Sequence[str]) -> int | None:
    """Which class is the one called "background", if any: it is black in masks and left clear in overlays."""
    return next((k for k, name in enumerate(classes) if name.strip().lower() == BACKGROUND), None)


def class_colors(classes: Sequence[str]) -> Array:
    """(K, 3) uint8 RGB: the colors of `PALETTE` in the order of the classes, again from 256 on; background black.

    The background takes no color of the list, so that classes keep theirs whether there is one or not.
    """
    background = background_of(classes)
    colors = np.zeros((len(classes), 3), np.uint8)
    others = [k for k in range(len(classes)) if k != background]
    colors[others] = PALETTE[np.arange(len(others)) % len(PALETTE)]
    return colors


def hexes(colors: Array) -> list[str]:
    """Colors (K, 3) as "#rrggbb"."""
    return [f"#{bytes(color).hex()}" for color in colors.astype(np.uint8)]


def voc_palette(count: int) -> Array:
    """PASCAL VOC's color map, (count, 3) uint8: bits of the class id spread over the color bits."""
    ids = np.arange(count)
    colors = np.zeros((count, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((ids >> (3 * bit + channel)) & 1) << (7 - bit)
    return colors.astype(np.uint8)


DEFICIENCIES: dict[str, NDArray[np.float64]] = {
    # On linear RGB, complete: Machado, Oliveira, Fernandes, "A physiologically-based model for simulation of color
    # vision deficiency", 2009, table 1.
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}

_TO_XYZ = np.array(  # sRGB, D65
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def cielab(rgb: ArrayLike, deficiency: str | None = None) -> NDArray[np.float64]:
    """CIELAB (..., 3) under D65 of sRGB (..., 3) in 0..255, as seen with one of `DEFICIENCIES`, None for none."""
    encoded = np.asarray(rgb, np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    if deficiency is not None:
        linear = np.clip(linear @ DEFICIENCIES[deficiency].T, 0, 1)
    xyz = linear @ _TO_XYZ.T / _TO_XYZ.sum(1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    lightness, a, b = 116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])
    return np.stack([lightness, a, b], -1)
