"""Masks as pictures: palettes, overlays with a legend, heat maps."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Array = NDArray[np.uint8]


def voc_palette(count: int) -> Array:
    """PASCAL VOC's colour map, (count, 3) uint8: bits of the class id spread over the colour bits."""
    ids = np.arange(count)
    colours = np.zeros((count, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((ids >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.astype(np.uint8)


def vivid_palette(count: int, *, background: bool = False) -> Array:
    """Colours that differ as much as possible, (count, 3) uint8; black first if class 0 is background."""
    import colorsys

    colours = []
    for i in range(count):
        hue = (i * 0.61803398875 + 0.02) % 1.0  # the golden ratio never repeats and spreads evenly
        light, strength = (0.52, 0.85) if i % 3 == 0 else (0.68, 0.75) if i % 3 == 1 else (0.38, 0.8)
        colours.append(colorsys.hls_to_rgb(hue, light, strength))
    palette = np.array(colours).reshape(-1, 3)
    if background:
        palette = np.concatenate([np.zeros((1, 3)), palette])[:count]
    return (palette * 255).round().astype(np.uint8)


def indexed(mask: NDArray[np.integer], palette: Array, void: int | None = None) -> Image.Image:
    """A mask (H, W) of ids up to 255 as an indexed PNG-ready picture; ids above 255 as 16-bit grey."""
    if mask.max(initial=0) > 255:
        return Image.fromarray(mask.astype(np.uint16))
    picture = Image.fromarray(mask.astype(np.uint8), mode="P")
    table = np.zeros((256, 3), np.uint8)
    table[: min(256, len(palette))] = palette[:256]
    if void is not None and void < 256:
        table[void] = 224
    picture.putpalette(table.tobytes())
    return picture


def overlay(
    image: Array,
    mask: NDArray[np.integer],
    palette: Array,
    *,
    opacity: float = 0.55,
    clear: int | None = None,
) -> Array:
    """Paint a mask (H, W) over a picture (H, W, 3) uint8; ids beyond the palette and `clear` are not painted."""
    painted = mask < len(palette)
    if clear is not None:
        painted &= mask != clear
    colours = palette[np.where(painted, mask, 0)].astype(np.float32)  # (H, W, 3)
    mixed = image * (1 - opacity) + colours * opacity
    edge = np.zeros(mask.shape, bool)
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    edge[1:] |= mask[1:] != mask[:-1]
    mixed[edge] = 255
    return np.where((painted | edge)[..., None], mixed, image).astype(np.uint8)


def with_legend(picture: Array, entries: Sequence[tuple[str, Sequence[int]]]) -> Image.Image:
    """Put a strip of colour swatches and names under a picture."""
    height, width = picture.shape[:2]
    size = max(11, round(max(width, 240) / 36))
    font = ImageFont.load_default(size)
    pad = size // 2
    rows: list[list[tuple[str, Sequence[int], int]]] = [[]]
    x = pad
    for name, colour in entries:
        short = name if len(name) <= 40 else name[:39] + "…"
        needed = round(size * 1.4 + font.getlength(short) + 2 * pad)
        if x + needed > width and rows[-1]:
            rows.append([])
            x = pad
        rows[-1].append((short, colour, x))
        x += needed
    line = round(size * 1.7)
    canvas = Image.new("RGB", (width, height + line * len(rows) + pad), "white")
    canvas.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(canvas)
    for i, row in enumerate(rows):
        top = height + pad // 2 + i * line
        for name, colour, left in row:
            box = (left, top + size // 4, left + size, top + size // 4 + size)
            draw.rectangle(box, fill=tuple(int(c) for c in colour), outline="black")
            draw.text((left + size * 1.4, top), name, fill="black", font=font)
    return canvas


def heat(image: Array, scores: NDArray[np.floating], *, opacity: float = 0.6) -> Array:
    """A heat map (H, W) of any range over a picture (H, W, 3) uint8: blue is low, red is high."""
    import cv2

    low, high = float(scores.min()), float(scores.max())
    level = ((scores - low) / max(high - low, 1e-12) * 255).astype(np.uint8)
    colours = cv2.applyColorMap(level, cv2.COLORMAP_TURBO)[..., ::-1]
    return (image * (1 - opacity) + colours * opacity).astype(np.uint8)
