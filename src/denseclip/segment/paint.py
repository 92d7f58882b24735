"""Masks as pictures: colors of classes, overlays with a legend and names, heat maps with a scale, contact sheets."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from denseclip.data.datasets import colors as voc_colors
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
    return np.array(voc_colors(count), np.uint8)


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


Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

OPACITY = 0.6
COLOR_LEFT = 0.3  # of a picture under paint: nearly gray, so that a tint has the hue of its class
LISTED = 60  # entries of a legend
NAMED = 32  # classes of a picture beyond which a legend is not enough: names are written into the areas


def indexed(mask: NDArray[np.integer], colors: Array, void: int | None = None) -> Image.Image:
    """A mask (H, W) of ids up to 255 as an indexed PNG-ready picture; ids above 255 as 16-bit gray."""
    if mask.max(initial=0) > 255:
        return Image.fromarray(mask.astype(np.uint16))
    picture = Image.fromarray(mask.astype(np.uint8), mode="P")
    table = np.zeros((256, 3), np.uint8)
    table[: min(256, len(colors))] = colors[:256]
    if void is not None and void < 256:
        table[void] = 224
    picture.putpalette(table.tobytes())
    return picture


def overlay(
    image: Array,
    mask: NDArray[np.integer],
    colors: Array,
    *,
    opacity: float = OPACITY,
    clear: int | None = None,
) -> Array:
    """Paint a mask (H, W) over a picture (H, W, 3) uint8; ids beyond the colors and `clear` are not painted."""
    painted = mask < len(colors)
    if clear is not None:
        painted &= mask != clear
    tint = colors[np.where(painted, mask, 0)].astype(np.float32)  # (H, W, 3)
    mixed = _muted(image, COLOR_LEFT) * (1 - opacity) + tint * opacity
    line = max(1, round(max(mask.shape) / 640))
    edge = np.zeros(mask.shape, bool)
    for shift in range(1, line + 1):
        edge[:, shift:] |= mask[:, shift:] != mask[:, :-shift]
        edge[shift:] |= mask[shift:] != mask[:-shift]
    mixed[edge] = 255
    return np.where((painted | edge)[..., None], mixed, image).astype(np.uint8)


def _muted(image: Array, color: float) -> NDArray[np.float32]:
    """A picture with this share of its color, (H, W, 3) float32 in 0..255."""
    gray = image @ np.array([0.299, 0.587, 0.114], np.float32)  # (H, W)
    return image * np.float32(color) + gray[..., None] * np.float32(1 - color)


class Entry(NamedTuple):
    """A line of a legend. share: of the picture, 0..1; None where it is not told."""

    name: str
    color: Sequence[int]
    share: float | None = None


def swatches(image: Array, mask: NDArray[np.integer], colors: Array, *, opacity: float = OPACITY) -> Array:
    """(K, 3): the mean color of each class's area in the overlay of `image`; of a class without one, its tint."""
    ids = np.minimum(mask.ravel(), len(colors))  # (H W,)
    muted = _muted(image, COLOR_LEFT)
    sums = [np.bincount(ids, muted[..., c].ravel(), len(colors) + 1)[: len(colors)] for c in range(3)]
    inside = np.bincount(ids, minlength=len(colors) + 1)[: len(colors), None]
    under = np.where(inside > 0, np.stack(sums, 1) / np.maximum(inside, 1), 128)  # (K, 3)
    return (colors * opacity + under * (1 - opacity)).round().astype(np.uint8)


def tints(colors: Array, opacity: float = OPACITY) -> Array:
    """(K, 3): how colors look over a picture of middle gray, for the legend of several pictures."""
    return (colors * opacity + 128 * (1 - opacity)).round().astype(np.uint8)


def with_legend(picture: Array, entries: Sequence[Entry], size: int | None = None) -> Image.Image:
    """Put color swatches and names, with their shares, under a picture; of more than 60, the last are counted.

    size: of the letters in pixels; None: as fits a picture that is looked at as a whole.
    """
    if len(entries) > LISTED:
        rest = entries[LISTED - 1 :]
        share = sum(entry.share or 0 for entry in rest) if rest[0].share is not None else None
        entries = [*entries[: LISTED - 1], Entry(f"and {len(rest)} more", (255, 255, 255), share)]
    height, width = picture.shape[:2]
    size = size or max(12, round(max(width, 240) / 44))
    font = ImageFont.load_default(size)
    pad = size // 2
    texts = [_entry_text(entry) for entry in entries]
    column = min(
        width, round(max((font.getlength(text) for text in texts), default=0) + size * 1.5 + 2 * pad)
    )
    columns = max(1, (width - pad) // max(1, column))
    line = round(size * 1.6)
    rows = -(-len(entries) // columns)
    canvas = Image.new("RGB", (width, height + line * rows + pad), "white")
    canvas.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(canvas)
    for i, (entry, text) in enumerate(zip(entries, texts, strict=True)):
        left, top = pad + i // rows * ((width - pad) // columns), height + pad // 2 + i % rows * line
        box = (left, top + 2, left + size, top + 2 + size)
        draw.rectangle(box, fill=tuple(int(c) for c in entry.color), outline=(90, 90, 90))
        draw.text((left + size * 1.5, top + 2 + size / 2), text, fill="black", font=font, anchor="lm")
    return canvas


def _entry_text(entry: Entry) -> str:
    name = entry.name if len(entry.name) <= 40 else entry.name[:39] + "…"
    return name if entry.share is None else f"{name} {percent(entry.share)}"


def percent(share: float) -> str:
    """0.314 as "31 %", small ones with a decimal."""
    return (
        f"{100 * share:.0f} %"
        if share >= 0.0995
        else f"{100 * share:.1f} %"
        if share >= 0.0005
        else "< 0.1 %"
    )


class NamePlace(NamedTuple):
    """A name in its area: the middle of the text and the size of its letters, in pixels of the picture."""

    name: str
    x: float
    y: float
    size: int


def name_places(mask: NDArray[np.integer], names: Mapping[int, str]) -> list[NamePlace]:
    """Where names stand, each in the largest connected area of its id; the first names take their place first.

    A name for which an area has no room, or that would lie on another name, is left out.
    """
    height, width = mask.shape
    least, most = max(9, round(max(mask.shape) / 60)), max(12, round(max(mask.shape) / 30))
    places: list[NamePlace] = []
    taken: list[tuple[float, float, float, float]] = []
    step = max(1, max(mask.shape) // 1024)  # of large masks every few pixels are enough
    small = mask[::step, ::step]
    for number, name in names.items():
        middle = _middle(small == number)
        if middle is None:
            continue
        x, y, radius = (step * value for value in middle)
        size = max(least, min(most, round(2.4 * radius / max(2.0, 0.5 * len(name)))))
        across, down = ImageFont.load_default(size).getlength(name) / 2 + 2, 0.6 * size
        if across > max(1.8 * radius, 2 * size) or radius < 0.5 * size or 2 * across > width:
            continue
        x, y = min(max(x, across), width - across), min(max(y, down), height - down)
        box = x - across, y - down, x + across, y + down
        if any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in taken):
            continue
        taken.append(box)
        places.append(NamePlace(name, x, y, size))
    return places


def with_names(picture: Array, places: Sequence[NamePlace]) -> Array:
    """Write names into a picture (H, W, 3); returns (H, W, 3) uint8."""
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    for name, x, y, size in places:
        font, stroke = ImageFont.load_default(size), max(1, size // 9)
        draw.text((x, y), name, "white", font, "mm", stroke_width=stroke, stroke_fill="black")
    return np.asarray(canvas)


def _middle(area: NDArray[np.bool_]) -> tuple[float, float, float] | None:
    """The point (x, y) of an area (H, W) farthest from its edge, in its largest part, and how far that is."""
    import cv2

    count, parts, stats, _ = cv2.connectedComponentsWithStats(area.astype(np.uint8))
    if count < 2:
        return None
    part = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    x, y, width, height = stats[part, :4].tolist()
    inside = np.pad(parts[y : y + height, x : x + width] == part, 1).astype(np.uint8)
    far = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
    row, column = np.unravel_index(int(far.argmax()), far.shape)
    return x + int(column) - 1, y + int(row) - 1, float(far.max())


def heat_colors() -> Array:
    """(256, 3) uint8 RGB from low to high, lighter all the way (viridis), to most eyes."""
    import cv2

    ramp = np.arange(256, dtype=np.uint8)[:, None]
    return np.asarray(cv2.applyColorMap(ramp, cv2.COLORMAP_VIRIDIS), np.uint8)[:, 0, ::-1]


def heat(image: Array, levels: NDArray[np.floating], *, opacity: float = 0.65) -> Array:
    """A map (H, W) of 0..1 over a picture (H, W, 3) uint8, which is gray under it."""
    index = (np.clip(levels, 0, 1) * 255).round().astype(np.uint8)
    return (_muted(image, 0.0) * (1 - opacity) + heat_colors()[index] * opacity).astype(np.uint8)


def with_scale(picture: Array, title: str, low: str, high: str) -> Image.Image:
    """Put the heat map's scale under it: what is shown, and what the two ends of the colors stand for."""
    height, width = picture.shape[:2]
    size = max(12, round(max(width, 240) / 44))
    font = ImageFont.load_default(size)
    lines = _wrapped(title, font, width - size)
    line, pad = round(1.5 * size), size // 2
    canvas = Image.new("RGB", (width, height + line * (len(lines) + 1) + 2 * pad), "white")
    canvas.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(canvas)
    for number, text in enumerate(lines):
        draw.text((pad, height + pad + (number + 0.5) * line), text, fill="black", font=font, anchor="lm")
    top = height + pad + len(lines) * line + line // 2
    left, right = (round(pad * 2 + font.getlength(end)) for end in (low, high))
    bar = Image.fromarray(heat_colors()[None]).resize((max(1, min(width - left - right, 24 * size)), size))
    canvas.paste(bar, (left, top - size // 2))
    draw.text((pad, top), low, fill="black", font=font, anchor="lm")
    draw.text((left + bar.width + pad, top), high, fill="black", font=font, anchor="lm")
    return canvas


def _wrapped(text: str, font: Font, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


GAP, CAPTION = 6, 20  # pixels


def contact_sheet(
    pictures: Sequence[Image.Image], captions: Sequence[str], *, columns: int, side: int = 240
) -> Array:
    """Pictures in rows, `side` pixels across or less, with a caption above each; returns (H, W, 3) uint8.

    A caption that is too long ends in an ellipsis; where a row has none, no room is kept for them.
    """
    tiles = [_tile(picture, side) for picture in pictures]
    columns = max(1, min(columns, len(tiles)))
    font = ImageFont.load_default(13)
    starts = range(0, len(tiles), columns)
    captioned = [CAPTION if any(captions[s : s + columns]) else 0 for s in starts]
    heights = [max(tile.height for tile in tiles[s : s + columns]) + GAP for s in starts]
    canvas = Image.new("RGB", (columns * (side + GAP) - GAP, max(1, sum(captioned) + sum(heights))), "white")
    pen, top = ImageDraw.Draw(canvas), 0
    for start, above, height in zip(starts, captioned, heights, strict=True):
        for column, tile in enumerate(tiles[start : start + columns]):
            left, caption = column * (side + GAP), captions[start + column]
            while font.getlength(caption) > side:
                caption = caption[:-2].rstrip("…") + "…"
            pen.text((left + 1, top + above / 2), caption, fill="black", font=font, anchor="lm")
            canvas.paste(tile, (left, top + above))
        top += above + height
    return np.asarray(canvas)


OVERVIEW, COLUMNS, SIDE = 24, 6, 240  # pictures, pictures, pixels


def spread(total: int, count: int = OVERVIEW) -> list[int]:
    """Up to `count` of the numbers from 0 to total - 1, evenly spread."""
    return np.linspace(0, total - 1, min(count, total)).astype(int).tolist()


def overview(
    tiles: Sequence[Image.Image],
    captions: Sequence[str],
    classes: Sequence[str],
    shares: NDArray[np.floating],
) -> Image.Image:
    """A contact sheet of overlays with one legend of their classes, by their shares (K,) of all pixels."""
    background, colors = background_of(classes), tints(class_colors(classes))
    order = [k for k in np.argsort(-shares, kind="stable").tolist() if shares[k] > 0 and k != background]
    legend = [Entry(classes[k], colors[k].tolist(), float(shares[k])) for k in order]
    return with_legend(contact_sheet(tiles, captions, columns=COLUMNS, side=SIDE), legend, size=15)


def _tile(picture: Image.Image, side: int) -> Image.Image:
    """A picture `side` pixels across; a tall one is as high at most."""
    scale = side / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)
