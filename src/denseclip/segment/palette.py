"""Colors of classes: one list for all pictures, far apart to most eyes, and PASCAL VOC's for files that need it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from denseclip.text import BACKGROUND

Array = NDArray[np.uint8]

PALETTE: Array = np.frombuffer(
    bytes.fromhex(
        "e12d2d4b2dd2ffd200ff78ff4b3c8700f087ff6900a50f3cf0a5e16969f05aa55a00e1b4c35ab4a5c34b782d5a5a2da5"
        "9600001e6987c33cc30f694b1e5affe1e15a69782d87b487f0d2ff5aa500c369a596009678a5ff4b4be14bf07896001e"
        "0fa5692df0fff04b00a5f01e962d780096e15a1eb4c3d269693c1e69a58700f0e1c34b00e1c300005a692db4f02d5ad2"
        "e1e196a53c3c5aa596ffc3e1c3873cd2b40f875a96f087e1872dc3d2e1a5005a2dff3c78f0a5c3d2a55a9687ffc30087"
        "9696d2962db4d2e1b4a52d00c33c5ad296a5f0963c0069ff782d7878d2ff4b78d2b4c387a54b1ea50f4b3cc3b44bf04b"
        "3c87b4780fc35ad2f09678ffe1a578963c1eb44b695af0c3f0b43c785aa5c387b4960069964be187b469f0000f964b4b"
        "78f0d2d2e169c35ac3b487a5a50f69780f96f0695a5ab400a5002df0b4a500f0f0f04be15aa5b4b41e69781e87a5c369"
        "4b962d783c2d2dd296a51ed2b478e1f0a5d2965a78962d9600e15a96874bff872d87e19687b496965ae169a5c3784b5a"
        "1e5a963c4bf096784bf0b45a9678d2ffc3c3ff7887008796b40f5af096e15a3ca5e14b3cffd287e1d23c6978c35ad2a5"
        "a56996c3004bf07878692db4ff4b3cf0d2780fc3ff784ba569c3c33c7887871e4b4ba578c3003c87b43c1ee1a5ff78f0"
        "3c5ab478e1d2874b875a96962d966969873ca5d2784b78ffb4a5d25a69c30f3cc3694b7878b4a5965a5a0fa53c5aa5f0"
        "87c3783ce1f01e69d24b5af0a55aa5d27896960f3cc3782db4695ad2b49600d2d29678f0f0c34bb41ea5d22d784bc3f0"
        "a5a54b00781ea5d2b4f069c3d269694b3ce1785ab4f000875ab4fff0a54bc32d0fffb4b49687b4c3875a4b4bc396005a"
        "d2d2879687f0d2870fc32d1e78e1c3c35aa596694b784bc31e7869e196694bc3e196f0964b871e1ed2b48778b4c36996"
        "c33cd2c3c33ca5a578c3c3ff69e169d22d3ca5000078f0a57896c3b42db4b45a87784be1f096b4c3c35ac3874b78691e"
        "5ad287f069d24b5aa5a55a96f05a87f096c3b4e178781e78d22d2d87f0b4d287e18769d20087a5c32d7869e1e196f05a"
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
