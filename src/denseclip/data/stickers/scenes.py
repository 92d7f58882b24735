"""Sticker scenes: things on a procedural ground, drawn with their masks, and their captions."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from denseclip.data.stickers.textures import TEXTURES, patch

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


@dataclass(frozen=True)
class SceneRecipe:
    """What a family of scenes looks like. Sizes are fractions of the picture's side.

    `things` and `stuff` restrict the words; empty means all sprites (a common one with probability
    `common`) and all textures. `colors` is how often a recolorable sprite gets a color word.
    """

    things: tuple[str, ...] = ()
    stuff: tuple[str, ...] = ()
    count: tuple[int, int] = (2, 6)
    scale: tuple[float, float] = (0.16, 0.6)
    common: float = 0.75
    colors: float = 0.4
    tilt: float = 25.0


@dataclass(frozen=True)
class Thing:
    """One sprite: box (x0, y0, x1, y1) of its visible pixels, end exclusive; visible share in 0..1."""

    name: str
    color: str | None
    box: tuple[int, int, int, int]
    visible: float

    @property
    def phrase(self) -> str:
        """Name with its color word, such as "red car"."""
        return f"{self.color} {self.name}" if self.color else self.name


@dataclass(frozen=True)
class Scene:
    """A picture and everything known about it.

    `image` (S, S, 3) uint8 RGB; `names` class names, textures first; `labels` (S, S) uint8 indices into
    `names`; `instances` (S, S) uint8, 0 for stuff and i + 1 for `things[i]`; `stuff` the visible textures.
    """

    image: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    instances: np.ndarray
    things: tuple[Thing, ...]
    stuff: tuple[str, ...]


def scene_rng(split: str, index: int) -> np.random.Generator:
    """The random stream of one scene: the same on every machine, another for every (split, index)."""
    digest = hashlib.sha256(f"{split}/{index}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def render(split: str, index: int, recipe: SceneRecipe | None = None, side: int = 128) -> Scene:
    """Compose scene `index` of `split` as a picture of `side` x `side` pixels.

    The layout depends on (split, index, recipe) only: another `side` gives the same scene, larger.
    """
    recipe = recipe or SceneRecipe()
    rng = scene_rng(split, index)
    image, stuff_map, stuff = _background(rng, recipe, side)  # (S, S, 3) float32, (S, S) uint8
    instances = np.zeros((side, side), np.uint8)
    count = int(rng.integers(recipe.count[0], recipe.count[1] + 1))
    drawn = [_draw(rng, recipe, image, instances, i + 1) for i in range(count)]
    things = tuple(_measure(drawn, instances))
    names = tuple(dict.fromkeys((*stuff, *(thing.name for thing in things))))
    lookup = np.array([0, *(names.index(thing.name) for thing in things)], np.uint8)
    behind = np.bincount(stuff_map[instances == 0], minlength=len(stuff)) if stuff else np.zeros(0)
    return Scene(
        image=_light(rng, image),
        names=names,
        labels=np.where(instances > 0, lookup[instances], stuff_map),
        instances=instances,
        things=things,
        stuff=tuple(name for name, pixels in zip(stuff, behind, strict=True) if pixels > side * side / 50),
    )


def window(scene: Scene, top: int, left: int, side: int) -> Scene:
    """The part of a scene that a window of `side` x `side` pixels shows, a scene of its own."""
    spot = (slice(top, top + side), slice(left, left + side))
    instances = scene.instances[spot]
    before = np.bincount(scene.instances.ravel(), minlength=256)
    drawn = [
        (t.name, t.color, round(before[i + 1] / max(t.visible, 1e-6))) for i, t in enumerate(scene.things)
    ]
    behind = np.bincount(scene.labels[spot][instances == 0], minlength=256)
    return Scene(
        image=scene.image[spot],
        names=scene.names,
        labels=scene.labels[spot],
        instances=instances,
        things=tuple(_measure(drawn, instances)),
        stuff=tuple(name for name in scene.stuff if behind[scene.names.index(name)] > side * side / 50),
    )


@cache
def _mesh(side: int) -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side
    return np.meshgrid(axis, axis, indexing="ij")[0], np.meshgrid(axis, axis, indexing="ij")[1]


def _background(
    rng: np.random.Generator, recipe: SceneRecipe, side: int
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """One to three textures, parted by wavy lines."""
    pool = recipe.stuff or TEXTURES
    count = min(len(pool), int(rng.choice([1, 2, 3], p=[0.3, 0.5, 0.2])))
    stuff = tuple(pool[int(i)] for i in rng.choice(len(pool), count, replace=False))
    image = patch(stuff[0], rng, side)
    stuff_map = np.zeros((side, side), np.uint8)
    angle = 0.0 if rng.random() < 0.6 else float(rng.uniform(0, 2 * np.pi))
    y, x = _mesh(side)
    across = (y - 0.5) * np.cos(angle) + (x - 0.5) * np.sin(angle)
    along = (x - 0.5) * np.cos(angle) - (y - 0.5) * np.sin(angle)
    offset = float(rng.uniform(-0.2, 0.1))
    for i in range(1, count):
        wave = 0.04 * np.sin(along * float(rng.uniform(4, 14)) + float(rng.uniform(0, 6.28)))
        beyond = (across + wave > offset).astype(np.uint8)
        cv2.copyTo(patch(stuff[i], rng, side), beyond, image)
        stuff_map[beyond > 0] = i
        offset += float(rng.uniform(0.2, 0.35))
    return image.astype(np.float32), stuff_map, stuff


def _choose(rng: np.random.Generator, recipe: SceneRecipe) -> tuple[str, str | None]:
    pool = recipe.things or sprite_names(common=bool(rng.random() < recipe.common))
    name = pool[int(rng.integers(len(pool)))]
    color = list(COLORS)[int(rng.integers(len(COLORS)))]
    return name, color if name in RECOLORABLE and rng.random() < recipe.colors else None


def _draw(
    rng: np.random.Generator, recipe: SceneRecipe, image: np.ndarray, instances: np.ndarray, number: int
) -> tuple[str, str | None, int]:
    """Paste one sprite in place; returns its name, color and the pixels that it covers."""
    side = image.shape[0]
    name, color = _choose(rng, recipe)
    low, high = np.log(recipe.scale)
    size = float(np.exp(rng.uniform(low, high))) * side
    reach = 0.5 * size / side * 0.7  # a sprite may leave the picture by a little
    center = (rng.uniform(reach, 1 - reach, 2) if reach < 0.5 else np.full(2, 0.5)) * side
    angle = float(np.clip(rng.normal(0, recipe.tilt / 2), -recipe.tilt, recipe.tilt))
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    gain = np.array([*np.exp(rng.normal(0, 0.04, 3) + rng.normal(0, 0.12)), 1.0], np.float32)
    levels = pyramid(name, color)
    source = levels[int(np.clip(np.floor(np.log2(SIDE / size + 1e-9)), 0, len(levels) - 1))]
    scale = size / source.shape[0]
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    half = int(np.ceil(size * (cos + abs(sin)) / 2)) + 1
    x0, y0 = max(0, int(center[0]) - half), max(0, int(center[1]) - half)
    x1, y1 = min(side, int(center[0]) + half), min(side, int(center[1]) + half)
    turn = np.array([[cos * mirror, -sin], [sin * mirror, cos]]) * scale
    shift = center - (x0, y0) - turn @ np.full(2, source.shape[0] / 2 - 0.5)
    sprite: np.ndarray = cv2.warpAffine(
        source, np.column_stack([turn, shift]), (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR
    )
    sprite *= gain  # (h, w, 4) float32, premultiplied
    alpha = sprite[..., 3:] / 255.0
    spot = image[y0:y1, x0:x1]
    spot *= 1 - alpha
    spot += sprite[..., :3]
    covered = alpha[..., 0] > 0.5
    instances[y0:y1, x0:x1][covered] = number
    return name, color, int(np.count_nonzero(covered))


def _measure(drawn: list[tuple[str, str | None, int]], instances: np.ndarray) -> list[Thing]:
    things = []
    for i, (name, color, covered) in enumerate(drawn):
        mask = instances == i + 1
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        else:
            box = (0, 0, 0, 0)
        things.append(Thing(name, color, box, np.count_nonzero(mask) / max(covered, 1)))
    return things


@cache
def _grain() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1024, 1024, 3), dtype=np.float32)


def _light(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Light from one side, over- or under-exposure, a little grain; (S, S, 3) float32 -> uint8."""
    side = image.shape[0]
    y, x = _mesh(side)
    angle, strength = float(rng.uniform(0, 6.28)), float(rng.uniform(0, 0.3))
    exposure = float(np.exp(rng.normal(0, 0.08)))
    shade = exposure * (1 + strength * ((y - 0.5) * np.cos(angle) + (x - 0.5) * np.sin(angle)))
    image *= shade[..., None].astype(np.float32)
    top, left = (rng.random(2) * max(1, 1024 - side)).astype(int)
    grain = (
        np.resize(_grain(), (side, side, 3))
        if side > 1024
        else _grain()[top : top + side, left : left + side]
    )
    return np.asarray(cv2.add(image, grain * np.float32(rng.uniform(0, 5)), dtype=cv2.CV_8U))  # saturates


WHOLE = (
    "a photo of {}.",
    "a picture of {}.",
    "{}",
    "an image with {}.",
    "there is {} in the scene.",
    "this is {}.",
    "a rendering of {}.",
    "a good photo of {}.",
)
MIN_VISIBLE = 0.4  # a thing that is mostly hidden is not mentioned,
MIN_SHARE = 0.15  # unless what is left of it takes this much of the picture


def seen(scene: Scene) -> list[Thing]:
    """The things that a caption mentions, nearest (last drawn) first."""
    pixels = np.bincount(scene.instances.ravel(), minlength=len(scene.things) + 1) / scene.instances.size
    numbered = reversed(list(enumerate(scene.things, start=1)))
    return [t for i, t in numbered if t.visible >= MIN_VISIBLE or pixels[i] >= MIN_SHARE]


def mentioned(scene: Scene) -> list[str]:
    """Phrases of the things that can be seen, each once, nearest first."""
    return list(dict.fromkeys(t.phrase for t in seen(scene)))


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """A sentence such as "a photo of a cat and a red car on grass."."""
    things = mentioned(scene)
    rng.shuffle(things)
    articles = ("a", "the")
    nouns = [f"{articles[int(rng.random() < 0.2)]} {thing}" for thing in things]
    text = " and ".join([", ".join(nouns[:-1]), nouns[-1]] if len(nouns) > 1 else nouns)
    if scene.stuff:
        text = f"{text} on {' and '.join(scene.stuff)}" if text else " and ".join(scene.stuff)
    return WHOLE[int(rng.integers(len(WHOLE)))].format(text or "nothing")


def short_captions(scene: Scene, *, stuff: bool = True) -> list[str]:
    """The words of each visible part, colored things with and without color: "red car", "car", "grass"."""
    plain = [t.name for t in seen(scene)]
    return list(dict.fromkeys([*mentioned(scene), *plain, *(scene.stuff if stuff else ())]))
