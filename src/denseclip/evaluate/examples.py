"""Some pictures of a data set with their truth and a model's answer."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from denseclip.data.datasets import SegmentationDataset
from denseclip.data.specs import DatasetSpec
from denseclip.errors import UserError
from denseclip.io import atomic_path
from denseclip.segment import paint
from denseclip.segment.load import class_ids
from denseclip.segment.segmenter import Segmenter

WIDTH, GAP, HEADER = 240, 6, 22  # pixels

Row = tuple[NDArray[np.uint8], NDArray[np.integer], NDArray[np.integer]]


def draw_examples(
    segmenter: Segmenter, dataset: SegmentationDataset, path: Path, *, images: int, count: int = 8
) -> None:
    """Write a grid: image, truth and prediction of up to `count` of the first `images`, evenly spread.

    Images that cannot be used are left out; what is not counted stays unpainted.
    """
    rows = list(_rows(segmenter, dataset, spread(images, count)))
    spec = dataset.spec
    with atomic_path(path) as temporary:
        paint.with_legend(_grid(rows, spec), _legend(rows, spec)).save(temporary)


def spread(images: int, count: int) -> list[int]:
    """Up to `count` of the first `images` numbers, evenly spread."""
    return np.linspace(0, images - 1, min(count, images)).astype(int).tolist()


def _rows(segmenter: Segmenter, dataset: SegmentationDataset, indices: list[int]) -> Iterator[Row]:
    """Image, true classes and predicted classes."""
    lookup = np.array(class_ids(segmenter, dataset.spec))
    for index in indices:
        try:
            sample = dataset[index]
            yield sample.image, sample.mask, lookup[segmenter.segment(sample.image).mask]
        except UserError:
            continue


def _grid(rows: list[Row], spec: DatasetSpec) -> NDArray[np.uint8]:
    """The rows below a header, (H, W, 3) uint8."""
    palette = np.array(spec.palette, np.uint8)
    tiles = []
    for image, *masks in rows:
        shown = [
            image,
            *(paint.overlay(image, mask, palette, opacity=0.75, clear=spec.background) for mask in masks),
        ]
        height = max(1, round(image.shape[0] * WIDTH / image.shape[1]))
        tiles.append([Image.fromarray(one).resize((WIDTH, height)) for one in shown])
    total = HEADER + sum(row[0].height + GAP for row in tiles)
    canvas = Image.new("RGB", (3 * WIDTH + 2 * GAP, total), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for column, title in enumerate(("image", "truth", "prediction")):
        pen.text((column * (WIDTH + GAP) + 2, 2), title, fill="black", font=font)
    top = HEADER
    for row in tiles:
        for column, tile in enumerate(row):
            canvas.paste(tile, (column * (WIDTH + GAP), top))
        top += row[0].height + GAP
    return np.asarray(canvas)


def _legend(rows: list[Row], spec: DatasetSpec) -> list[tuple[str, tuple[int, int, int]]]:
    """Names and colours of the classes that occur, the most frequent first."""
    areas = np.zeros(len(spec.classes), np.int64)
    for _, *masks in rows:
        for mask in masks:
            areas += np.bincount(mask[mask < len(areas)].ravel(), minlength=len(areas))
    if spec.background is not None:
        areas[spec.background] = 0
    order = [k for k in np.argsort(-areas, kind="stable").tolist() if areas[k]]
    return [(spec.classes[k], spec.palette[k]) for k in order[:40]]
