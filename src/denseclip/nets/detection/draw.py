"""Boxes and masks painted over a picture."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from denseclip.data.things import Runs, decode
from denseclip.segment.paint import vivid_palette

Array = NDArray[np.uint8]
OPACITY = 0.5


def draw_things(
    image: Array,
    boxes: NDArray[np.float32],
    labels: Sequence[int],
    classes: Sequence[str],
    *,
    scores: Sequence[float] | None = None,
    masks: Sequence[Runs] | None = None,
) -> Array:
    """A picture (H, W, 3) uint8 RGB with boxes (N, 4), x0, y0, x1, y1 in its pixels, of classes (N,).

    scores: written behind the names. masks: painted; the first of the things, which is the best, lies on top.
    Each class has its colour. Returns (H, W, 3) uint8.
    """
    palette = vivid_palette(len(classes))
    painted = image.copy()
    order = range(len(labels) - 1, -1, -1)
    for i in order if masks is not None else ():
        assert masks is not None
        inside = decode(masks[i]).astype(bool)
        painted[inside] = (painted[inside] * (1 - OPACITY) + palette[labels[i]] * OPACITY).astype(np.uint8)
    canvas = Image.fromarray(painted)
    draw = ImageDraw.Draw(canvas)
    line = max(1, round(max(image.shape[:2]) / 300))
    font = ImageFont.load_default(max(10, round(max(image.shape[:2]) / 45)))
    for i in order:
        colour = tuple(int(part) for part in palette[labels[i]])
        box = [float(side) for side in boxes[i]]
        draw.rectangle(box, outline=colour, width=line)
        text = classes[labels[i]] + ("" if scores is None else f" {scores[i]:.2f}")
        _tag(draw, (box[0], box[1]), canvas.width, text, colour, font)
    return np.asarray(canvas)


def _tag(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    width: int,
    text: str,
    colour: tuple[int, ...],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """A name on its colour, above the corner; at an edge of the picture, `width` across, below or further left."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    across, down = right - left + 4, bottom - top + 4
    x, y = max(0.0, min(corner[0], width - 1 - across)), corner[1] - down
    y = corner[1] if y < 0 else y
    draw.rectangle((x, y, x + across, y + down), fill=colour)
    dark = sum(colour) > 380
    draw.text((x + 2 - left, y + 2 - top), text, fill="black" if dark else "white", font=font)
