"""Some pictures of a data set with what is in them and what a detector found."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from denseclip.data.things import ThingsDataset, ThingsSample
from denseclip.detection.predict import TrainedDetector, draw_things
from denseclip.errors import UserError
from denseclip.evaluate.examples import GAP, HEADER, spread
from denseclip.io import atomic_path

WIDTH = 320  # pixels; names have to be read

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def draw_detections(
    detector: TrainedDetector,
    dataset: ThingsDataset,
    path: Path,
    *,
    images: int,
    count: int = 4,
    threshold: float = 0.3,
) -> None:
    """Write a grid: up to `count` of the first `images`, evenly spread; the truth above what was found.

    threshold: lowest score that is drawn. Images that cannot be used are left out.
    """
    pairs = list(_pairs(detector, dataset, spread(images, count), threshold))
    with atomic_path(path) as temporary:
        _grid(pairs, ("truth", f"found, scores from {threshold:g}")).save(temporary)


def _pairs(
    detector: TrainedDetector, dataset: ThingsDataset, indices: list[int], threshold: float
) -> Iterator[Pair]:
    """The same picture with its truth and with what was found, both (H, W, 3)."""
    for index in indices:
        try:
            sample = dataset[index]
        except UserError:
            continue
        found = detector.detect(sample.image).above(threshold)
        yield _truth(sample, dataset.classes), np.asarray(found.overlay())


def _truth(sample: ThingsSample, classes: tuple[str, ...]) -> NDArray[np.uint8]:
    truth = sample.truth
    masks = [runs for runs in truth.runs if runs is not None]
    whole = masks if len(masks) == len(truth.runs) else None
    return draw_things(sample.image, truth.boxes, truth.labels.tolist(), classes, masks=whole)


def _grid(pairs: list[Pair], titles: tuple[str, str]) -> Image.Image:
    """A column for each pair, and a title above each row."""
    tiles = [[_tile(image) for image in pair] for pair in pairs]
    height = max((pair[0].height for pair in tiles), default=0)
    step = HEADER + height + GAP
    canvas = Image.new("RGB", (max(1, len(tiles)) * (WIDTH + GAP) - GAP, 2 * step - GAP), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for row, title in enumerate(titles):
        pen.text((2, row * step + 2), title, fill="black", font=font)
        for column, pair in enumerate(tiles):
            canvas.paste(pair[row], (column * (WIDTH + GAP), row * step + HEADER))
    return canvas


def _tile(image: NDArray[np.uint8]) -> Image.Image:
    height = max(1, round(image.shape[0] * WIDTH / image.shape[1]))
    return Image.fromarray(image).resize((WIDTH, height), Image.Resampling.LANCZOS)
