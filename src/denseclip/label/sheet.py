"""Pictures with their labels painted on: overlays, and a sheet of small ones."""

import base64
import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from denseclip.label.formats.base import below, save
from denseclip.label.journal import Record
from denseclip.label.labelled import Labelled, Labels
from denseclip.segment import paint

TILES, COLUMNS, SIDE, CAPTION, GAP = 24, 6, 240, 18, 6  # pixels
OVERLAY_SIDE = 1600


def chosen(total: int) -> set[int]:
    """Positions of the pictures on the sheet, evenly spread."""
    return set(np.linspace(0, total - 1, min(TILES, total)).astype(int).tolist())


def write_overlay(picture: Labelled, out: Path) -> None:
    """overlays/NAME.jpg: the picture under its labels, with a legend, not larger than `OVERLAY_SIDE`."""
    image = picture.result.overlay()
    image.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
    save(image, below(out / "overlays", picture.item.name, ".jpg"), quality=88)


def tile(picture: Labelled) -> str:
    """A small overlay, as text."""
    image = picture.result.overlay(legend=False)
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def write_sheet(path: Path, labels: Labels, records: Iterator[tuple[int, Record]]) -> None:
    """A grid of the records' tiles with a legend of the classes they hold, the largest first."""
    tiles, areas = [], np.zeros(len(labels.classes))
    for _, record in records:
        if "tile" not in record:
            continue
        picture = Image.open(io.BytesIO(base64.b64decode(record["tile"]))).convert("RGB")
        tiles.append((picture, f"{record['confidence']:.2f} {record['name']}"))
        for name, count in record["pixels"].items():
            if name != "void":
                areas[int(name)] += count / sum(record["pixels"].values())
    if not tiles:
        return
    if labels.background is not None:
        areas[labels.background] = 0
    palette = paint.vivid_palette(len(areas), background=labels.background == 0)
    order = [k for k in np.argsort(-areas, kind="stable").tolist()[:40] if areas[k]]
    legend = [(labels.classes[k], palette[k].tolist()) for k in order]
    save(paint.with_legend(_grid(tiles), legend), path, quality=90)


def _grid(tiles: list[tuple[Image.Image, str]]) -> np.ndarray:
    columns = min(COLUMNS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    tall = max(picture.height for picture, _ in tiles) + CAPTION + GAP
    canvas = Image.new("RGB", (columns * (SIDE + GAP) - GAP, rows * tall), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for number, (picture, caption) in enumerate(tiles):
        left, top = number % columns * (SIDE + GAP), number // columns * tall
        canvas.paste(picture, (left, top + CAPTION))
        while font.getlength(caption) > SIDE:
            caption = caption[:-2].rstrip("…") + "…"
        pen.text((left, top + 2), caption, fill="black", font=font)
    return np.asarray(canvas)
