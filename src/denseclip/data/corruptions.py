"""The eight corruptions of the robustness tables, at five levels (maskclip section g; ImageNet-C)."""

import hashlib
import io
from collections.abc import Callable
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray
from PIL import Image

from denseclip.errors import UserError

Kind = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "speckle_noise",
    "gaussian_blur",
    "defocus_blur",
    "spatter",
    "jpeg_compression",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
LEVELS = (1, 2, 3, 4, 5)

Array = NDArray[Any]


def corruption_seed(image_id: str, kind: Kind, level: int) -> int:
    """32-bit seed of one corrupted image, so that neither workers nor order change the picture."""
    digest = hashlib.sha256(f"{image_id}\0{kind}\0{level}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def corrupt(image: Array, kind: str, level: int, *, seed: int, official: bool = True) -> Array:
    """Corrupt an RGB picture before any resizing.

    image: (H, W, 3) uint8 RGB; level: 1..5; seed: see `corruption_seed`.
    official: corrupt the channels in BGR order as the published runs did, which changes the colors of
    spatter and the chroma of JPEG and which random number meets which channel; otherwise in RGB order.
    Returns (H, W, 3) uint8 RGB. Raises UserError for an unknown kind or level.
    """
    if kind not in KINDS:
        raise UserError(f"unknown corruption {kind!r}: choose from {', '.join(KINDS)}")
    if level not in LEVELS:
        raise UserError(f"unknown corruption level {level!r}: choose from 1 to 5")
    step = -1 if official else 1
    corrupted = corrupt_array(np.ascontiguousarray(image[..., ::step]), kind, level, RandomState(seed))
    return np.ascontiguousarray(corrupted[..., ::step])


def corrupt_array(image: Array, kind: Kind, level: int, rng: RandomState) -> Array:
    """Corrupt an array (H, W, 3) uint8 in the channel order it has, drawing in the order of ImageNet-C.

    rng: numpy's legacy generator; `RandomState(s)` gives the stream of `numpy.random.seed(s)`.
    Results are cut, not rounded, to uint8, as the published code does.
    """
    assert image.dtype == np.uint8
    assert image.ndim == 3
    return _CORRUPTIONS[kind](image, level - 1, rng)


def _to_bytes(x: Array) -> Array:
    return (np.clip(x, 0, 1) * 255).astype(np.uint8)


def _gaussian_noise(image: Array, level: int, rng: RandomState) -> Array:
    scale = (0.08, 0.12, 0.18, 0.26, 0.38)[level]
    return _to_bytes(image / 255 + rng.normal(size=image.shape, scale=scale))


def _shot_noise(image: Array, level: int, rng: RandomState) -> Array:
    photons = (60, 25, 12, 5, 3)[level]
    return _to_bytes(rng.poisson(image / 255 * photons) / photons)


def _impulse_noise(image: Array, level: int, rng: RandomState) -> Array:
    amount = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    hit = rng.random_sample(image.shape) <= amount
    salt = rng.random_sample(image.shape) <= 0.5
    return np.where(hit, np.where(salt, 255, 0), image).astype(np.uint8)


def _speckle_noise(image: Array, level: int, rng: RandomState) -> Array:
    x, scale = image / 255, (0.15, 0.2, 0.35, 0.45, 0.6)[level]
    return _to_bytes(x + x * rng.normal(size=x.shape, scale=scale))


def _smooth(x: Array, sigma: float) -> Array:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(x, (sigma, sigma, 0)[: x.ndim], mode="nearest", truncate=4.0)


def _gaussian_blur(image: Array, level: int, rng: RandomState) -> Array:
    return _to_bytes(_smooth(image / 255, (1, 2, 3, 4, 6)[level]))


def _defocus_blur(image: Array, level: int, rng: RandomState) -> Array:
    radius, alias = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[level]
    reach, edge = (8, 3) if radius <= 8 else (radius, 5)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.float32)
    kernel = cv2.GaussianBlur(disk / disk.sum(), (edge, edge), alias)
    return _to_bytes(cv2.filter2D(image / 255, -1, kernel))  # reflect-101 at the border


_SPATTER = (  # mean and deviation of the liquid, its smoothing, threshold, strength, mud?
    (0.65, 0.3, 4, 0.69, 0.6, False),
    (0.65, 0.3, 3, 0.68, 0.6, False),
    (0.65, 0.3, 2, 0.68, 0.5, False),
    (0.65, 0.3, 1, 0.65, 1.5, True),
    (0.67, 0.4, 1, 0.65, 1.5, True),
)
_MUD = np.array([63, 42, 20], np.float32) / 255
_WATER = np.array([175, 238, 238], np.float32) / 255


def _spatter(image: Array, level: int, rng: RandomState) -> Array:
    mean, deviation, sigma, threshold, strength, mud = _SPATTER[level]
    x = image.astype(np.float32) / 255
    liquid = _smooth(rng.normal(size=x.shape[:2], loc=mean, scale=deviation), sigma)
    liquid[liquid < threshold] = 0
    if mud:
        cover = _smooth((liquid > threshold).astype(np.float32), strength)
        cover = np.where(cover < 0.8, 0, cover)[..., None]  # (H, W, 1)
        return _to_bytes(x * (1 - cover) + _MUD * cover)
    return _to_bytes(x + _water(liquid)[..., None] * np.float32(strength) * _WATER)


def _water(liquid: Array) -> Array:
    """Light on drops: brightest near their rims. (H, W) in 0..1 -> (H, W) float32 with maximum 1."""
    drops = (liquid * 255).astype(np.uint8)
    away = cv2.distanceTransform(255 - cv2.Canny(drops, 50, 150), cv2.DIST_L2, 5)
    away = cv2.blur(np.minimum(away, 20), (3, 3)).astype(np.uint8)
    emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    relief = cv2.blur(cv2.filter2D(cv2.equalizeHist(away), cv2.CV_8U, emboss), (3, 3))
    light = drops * relief.astype(np.float32)
    return light / max(light.max(), np.float32(1))  # all zero where no drop fell


def _jpeg_compression(image: Array, level: int, rng: RandomState) -> Array:
    packed = io.BytesIO()
    Image.fromarray(image).save(packed, "JPEG", quality=(25, 18, 15, 10, 7)[level])
    return np.array(Image.open(packed))


_CORRUPTIONS: dict[Kind, Callable[[Array, int, RandomState], Array]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "speckle_noise": _speckle_noise,
    "gaussian_blur": _gaussian_blur,
    "defocus_blur": _defocus_blur,
    "spatter": _spatter,
    "jpeg_compression": _jpeg_compression,
}
