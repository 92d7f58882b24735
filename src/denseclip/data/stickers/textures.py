"""Procedural textures: the stuff that sticker scenes stand on and in front of."""

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

TILE = 384  # side of a cached texture tile, in pixels
VARIANTS = 6

Painter = Callable[[np.random.Generator], np.ndarray]


def noise(rng: np.random.Generator, cells: int, *, stretch: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """Smooth noise (TILE, TILE) float32 in 0..1, about `cells` bumps a side; `stretch`: (y, x) elongation."""
    shape = (max(2, round(cells / stretch[0])), max(2, round(cells / stretch[1])))
    grid = rng.random(shape, dtype=np.float32)
    return np.clip(cv2.resize(grid, (TILE, TILE), interpolation=cv2.INTER_CUBIC), 0, 1)


def fractal(rng: np.random.Generator, cells: int, octaves: int = 4) -> np.ndarray:
    """Sum of octaves of smooth noise, (TILE, TILE) float32 in 0..1."""
    total = np.zeros((TILE, TILE), np.float32)
    for i in range(octaves):
        total += noise(rng, cells * 2**i) * 0.5**i
    return (total - total.min()) / (np.ptp(total) + 1e-6)


def blend(low: tuple[int, int, int], high: tuple[int, int, int], t: np.ndarray) -> np.ndarray:
    """Color ramp: (h, w) in 0..1 -> (h, w, 3) float32 RGB."""
    a, b = np.array(low, np.float32), np.array(high, np.float32)
    return a + (b - a) * t[..., None]


def grid_lines(period_y: int, period_x: int, width: int, *, shift: bool = False) -> np.ndarray:
    """Mask (TILE, TILE) of joints; `shift` moves every second row by half a period (bricks)."""
    y, x = np.mgrid[:TILE, :TILE]
    offset = (y // period_y % 2) * (period_x // 2) if shift else 0
    return (y % period_y < width) | ((x + offset) % period_x < width)


def _grass(rng: np.random.Generator) -> np.ndarray:
    blades = noise(rng, 130, stretch=(5.0, 1.0)) * 0.6 + fractal(rng, 6) * 0.4
    return blend((30, 84, 22), (142, 196, 72), blades)


def _sky(rng: np.random.Generator) -> np.ndarray:
    clouds = np.clip(fractal(rng, 3, 5) * 2.2 - 0.9, 0, 1)
    height = np.linspace(0, 1, TILE, dtype=np.float32)[:, None].repeat(TILE, 1)
    base = blend((70, 140, 225), (170, 210, 245), height)
    return base + (250 - base) * clouds[..., None] * 0.85


def _brick_wall(rng: np.random.Generator) -> np.ndarray:
    bricks = blend((132, 50, 36), (190, 92, 66), noise(rng, 22) * 0.6 + noise(rng, 150) * 0.4)
    bricks[grid_lines(24, 52, 4, shift=True)] = (196, 188, 176)
    return bricks


def _water(rng: np.random.Generator) -> np.ndarray:
    waves = noise(rng, 60, stretch=(1.0, 5.0))
    ripples = np.clip(np.sin((waves * 3 + noise(rng, 12) * 2) * 6.0), 0, 1)
    return blend((10, 70, 110), (90, 190, 205), waves * 0.6 + ripples.astype(np.float32) * 0.4)


def _sand(rng: np.random.Generator) -> np.ndarray:
    grain = rng.random((TILE, TILE), dtype=np.float32) * 0.5 + fractal(rng, 4) * 0.5
    return blend((196, 160, 104), (240, 216, 166), grain)


def _wood_floor(rng: np.random.Generator) -> np.ndarray:
    grain = noise(rng, 120, stretch=(1.0, 14.0)) * 0.6 + noise(rng, 12, stretch=(1.0, 2.0)) * 0.4
    planks = blend((108, 64, 28), (190, 132, 74), grain)
    planks[grid_lines(44, 180, 2, shift=True)] = (64, 38, 20)
    return planks


def _snow(rng: np.random.Generator) -> np.ndarray:
    soft = fractal(rng, 4, 3) * 0.8 + rng.random((TILE, TILE), dtype=np.float32) * 0.2
    return blend((206, 218, 236), (254, 254, 255), soft)


def _gravel(rng: np.random.Generator) -> np.ndarray:
    stones = noise(rng, 48)
    edges = np.abs(cv2.Laplacian(cv2.GaussianBlur(stones, (0, 0), 1.5), cv2.CV_32F, ksize=5))
    shade = np.clip(0.2 + stones * 0.8 - edges / (edges.max() + 1e-6), 0, 1)
    return blend((60, 58, 56), (196, 190, 182), shade)


def _road(rng: np.random.Generator) -> np.ndarray:
    asphalt = rng.random((TILE, TILE), dtype=np.float32) * 0.45 + fractal(rng, 3) * 0.3
    road = blend((44, 44, 48), (118, 118, 122), asphalt)
    y, x = np.mgrid[:TILE, :TILE]
    road[(x % 192 < 12) & (y % 96 < 58)] = (226, 220, 196)
    return road


def _tile_floor(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:TILE, :TILE] // 48
    light = ((x + y) % 2).astype(np.float32) * 0.75 + noise(rng, 40) * 0.25
    tiles = blend((92, 116, 128), (232, 236, 232), light)
    tiles[grid_lines(48, 48, 2)] = (150, 150, 148)
    return tiles


def _night_sky(rng: np.random.Generator) -> np.ndarray:
    glow = fractal(rng, 2, 3)
    night = blend((6, 8, 30), (40, 32, 84), glow)
    for _ in range(160):
        cy, cx = rng.integers(0, TILE, 2)
        cv2.circle(night, (int(cx), int(cy)), int(rng.integers(1, 3)), (250, 246, 220), -1)
    return night


def _leaves(rng: np.random.Generator) -> np.ndarray:
    leaves = np.empty((TILE, TILE, 3), np.float32)
    leaves[:] = (24, 58, 26)
    for _ in range(900):
        cy, cx = rng.integers(0, TILE, 2)
        shade = float(rng.random())
        color = (40 + 60 * shade, 90 + 100 * shade, 30 + 30 * shade)
        axes = (int(rng.integers(8, 14)), int(rng.integers(3, 6)))
        cv2.ellipse(
            leaves, (int(cx), int(cy)), axes, float(rng.random() * 360), 0, 360, color, -1, cv2.LINE_AA
        )
    return leaves


def _carpet(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:TILE, :TILE].astype(np.float32)
    diamonds = (np.abs((x % 64) - 32) + np.abs((y % 64) - 32) < 22).astype(np.float32)
    weave = rng.random((TILE, TILE), dtype=np.float32) * 0.35
    return blend((112, 18, 44), (214, 170, 96), np.clip(diamonds * 0.65 + weave, 0, 1))


def _soil(rng: np.random.Generator) -> np.ndarray:
    lumps = fractal(rng, 14, 4) * 0.75 + rng.random((TILE, TILE), dtype=np.float32) * 0.25
    return blend((46, 28, 16), (128, 88, 56), lumps)


def _stone_wall(rng: np.random.Generator) -> np.ndarray:
    points = rng.random((90, 2)).astype(np.float32) * TILE
    y, x = np.mgrid[:TILE, :TILE].astype(np.float32)
    distance = np.stack([(x - px) ** 2 + ((y - py) * 1.5) ** 2 for py, px in points])
    nearest = np.partition(distance, 1, axis=0)[:2]
    shade = rng.random(len(points), dtype=np.float32)[distance.argmin(0)] * 0.6 + noise(rng, 60) * 0.4
    wall = blend((96, 96, 100), (176, 172, 164), shade)
    wall[np.sqrt(nearest[1]) - np.sqrt(nearest[0]) < 3.5] = (58, 56, 54)
    return wall


def _curtain(rng: np.random.Generator) -> np.ndarray:
    x = np.arange(TILE, dtype=np.float32)[None].repeat(TILE, 0)
    folds = 0.5 + 0.5 * np.sin(x / 11.0 + noise(rng, 4) * 5.0)
    return blend((92, 26, 110), (206, 140, 222), folds * 0.85 + noise(rng, 90) * 0.15)


PAINTERS: dict[str, Painter] = {
    "grass": _grass,
    "sky": _sky,
    "brick wall": _brick_wall,
    "water": _water,
    "sand": _sand,
    "wood floor": _wood_floor,
    "snow": _snow,
    "gravel": _gravel,
    "road": _road,
    "tile floor": _tile_floor,
    "night sky": _night_sky,
    "leaves": _leaves,
    "carpet": _carpet,
    "soil": _soil,
    "stone wall": _stone_wall,
    "curtain": _curtain,
}
TEXTURES: tuple[str, ...] = tuple(PAINTERS)


@cache
def tile(name: str, variant: int) -> np.ndarray:
    """One texture tile (TILE, TILE, 3) uint8 RGB; the same for the same (name, variant)."""
    rng = np.random.default_rng([TEXTURES.index(name), variant])
    return np.clip(PAINTERS[name](rng), 0, 255).astype(np.uint8)


def patch(name: str, rng: np.random.Generator, side: int) -> np.ndarray:
    """A random cut of a texture as (side, side, 3) uint8 RGB, with its own zoom and light.

    What is drawn from `rng` does not depend on `side`.
    """
    source = tile(name, int(rng.integers(VARIANTS)))
    cut = round(TILE * float(rng.uniform(0.3, 0.9)))
    y, x = (rng.random(2) * (TILE - cut + 1)).astype(int)
    mirror = rng.random() < 0.5
    gain = np.exp(rng.normal(0, 0.05, 3) + rng.normal(0, 0.12))
    piece = cv2.resize(source[y : y + cut, x : x + cut], (side, side), interpolation=cv2.INTER_AREA)
    piece = cv2.multiply(piece, np.array([*gain, 1.0]), dtype=cv2.CV_8U)  # saturates
    return np.asarray(cv2.flip(piece, 1) if mirror else piece)
