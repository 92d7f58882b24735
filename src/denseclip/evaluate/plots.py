"""Figures and files of an evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from denseclip.data.datasets import SegmentationDataset
from denseclip.data.instances import InstanceDataset
from denseclip.detection.predict import TrainedDetector, draw_instances
from denseclip.errors import UserError, need
from denseclip.evaluate.result import Corruption, Result
from denseclip.io import atomic_path, write_text
from denseclip.loading import class_ids
from denseclip.segment import paint
from denseclip.segment.paint import PALETTE, class_colors, hexes
from denseclip.segment.segmenter import Segmenter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Curve = Mapping[Corruption | None, float]
"""mIoU in percent by corruption; None is the clean one."""


def draw_curves(path: Path, title: str, curves: Mapping[str, Curve]) -> None:
    """Write a PNG: a panel for each kind, a line for each model, level 0 being clean, as far as they are there."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(key[0] for curve in curves.values() for key in curve if key)) or ["clean"]
    columns = min(4, len(kinds))
    rows = -(-len(kinds) // columns)
    figure = Figure(figsize=(2.6 * columns + 0.6, 2.3 * rows + 0.8), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for panel in panels[len(kinds) :]:
        panel.set_visible(False)
    for panel, kind in zip(panels, kinds, strict=False):
        for (name, curve), color in zip(curves.items(), hexes(PALETTE), strict=False):
            there = sorted(
                (key[1] if key else 0, value) for key, value in curve.items() if not key or key[0] == kind
            )
            levels, values = zip(*there, strict=True) if there else ((), ())
            panel.plot(levels, values, marker="o", markersize=3, label=name, color=color)
        panel.set_title(kind.replace("_", " "), fontsize=9)
        panel.set_xlabel("level (0: clean)", fontsize=8)
        panel.label_outer()
        panel.grid(alpha=0.3)
    panels[0].set_ylim(bottom=0)  # of all panels, now that all lines are drawn
    figure.supylabel("mIoU, %", fontsize=9)
    figure.suptitle(title, fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    save_figure(figure, path)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a PNG whose bytes depend on the figure alone. Names are no formulas, whatever dollars they have."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Software": None})


LABELED = 200  # classes whose names can still be read


def draw_confusion(result: Result, path: Path) -> None:
    """Write a PNG: what became of the pixels of every class, as shares of its pixels.

    Rows are true, columns predicted. Seen classes come first and unseen ones stand together, each group in a
    box, so that errors within and between the groups can be told apart. Classes that neither occur nor are
    predicted are left out.
    """
    from matplotlib.figure import Figure

    counts = result.matrix.matrix.cpu().numpy()
    present = (counts.sum(0) + counts.sum(1)) > 0
    seen, unseen = ([k for k in group if present[k]] for group in (result.seen, result.unseen))
    order = [*seen, *unseen]
    shares = counts[np.ix_(order, order)] / np.maximum(counts[order].sum(1, keepdims=True), 1)  # (k, k)
    side = float(np.clip(0.15 * len(order) + 2, 5, 26))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(picture, ax=axes, shrink=0.6, label="share of the true class")
    _name(axes, [result.classes[k] for k in order])
    if unseen:
        _box(axes, 0, len(seen), "seen", hexes(PALETTE)[6])
        _box(axes, len(seen), len(unseen), "unseen", hexes(PALETTE)[3])
    protocol = result.protocol
    axes.set_title(f"{protocol.model} on {protocol.data}, {protocol.split}", fontsize=10)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    save_figure(figure, path)


def _name(axes: "Axes", names: list[str]) -> None:
    if len(names) > LABELED:
        axes.set_xticks([])
        axes.set_yticks([])
        return
    size = 8 if len(names) <= 60 else 6
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)


def _box(axes: "Axes", first: int, count: int, name: str, color: str) -> None:
    """A frame around the square of one group, and its name beside the matrix."""
    from matplotlib.patches import Rectangle

    corner = (first - 0.5, first - 0.5)
    axes.add_patch(Rectangle(corner, count, count, fill=False, edgecolor=color, linewidth=1.5))
    middle = first + count / 2 - 0.5
    axes.annotate(
        name, (1.01, middle), xycoords=("axes fraction", "data"), rotation=270, va="center", fontsize=9
    )


WIDTH, THINGS_WIDTH = 240, 320  # pixels; names of things have to be read


def draw_examples(
    segmenter: Segmenter, dataset: SegmentationDataset, path: Path, *, images: int, count: int = 8
) -> None:
    """Write a grid: image, truth and prediction of up to `count` of the first `images`, evenly spread.

    Images that cannot be used are left out; what is not counted stays unpainted.
    """
    spec = dataset.spec
    lookup, colors = np.array(class_ids(segmenter, spec)), class_colors(spec.classes)
    areas, tiles = np.zeros(len(spec.classes), np.int64), []
    for index in paint.spread(images, count):
        try:
            sample = dataset[index]
            masks = sample.mask, lookup[segmenter.segment(sample.image).mask]
        except UserError:
            continue
        shown = [paint.overlay(sample.image, mask, colors, clear=spec.background) for mask in masks]
        tiles += [Image.fromarray(one) for one in (sample.image, *shown)]
        for mask in masks:
            areas += np.bincount(mask[mask < len(areas)].ravel(), minlength=len(areas))
    if spec.background is not None:
        areas[spec.background] = 0
    order = [k for k in np.argsort(-areas, kind="stable").tolist() if areas[k]]  # the most frequent first
    swatches = paint.tints(colors)
    legend = [paint.Entry(spec.classes[k], swatches[k].tolist()) for k in order[:60]]
    captions = ["image", "truth", "prediction", *[""] * len(tiles)][: len(tiles)]
    with atomic_path(path) as temporary:
        sheet = paint.contact_sheet(tiles, captions, columns=3, side=WIDTH)
        paint.with_legend(sheet, legend, size=15).save(temporary)


def draw_detections(
    detector: TrainedDetector,
    dataset: InstanceDataset,
    path: Path,
    *,
    images: int,
    count: int = 4,
    threshold: float = 0.3,
) -> None:
    """Write a grid: up to `count` of the first `images`, evenly spread; the truth above what was found.

    threshold: lowest score that is drawn. Images that cannot be used are left out.
    """
    rows: tuple[list[Image.Image], ...] = ([], [])
    for index in paint.spread(images, count):
        try:
            sample = dataset[index]
        except UserError:
            continue
        truth = sample.truth
        masks = [runs for runs in truth.runs if runs is not None]
        whole = masks if len(masks) == len(truth.runs) else None
        drawn = draw_instances(sample.image, truth.boxes, truth.labels.tolist(), dataset.classes, masks=whole)
        rows[0].append(Image.fromarray(drawn))
        rows[1].append(detector.detect(sample.image).above(threshold).overlay())
    titles = ("truth", f"found, scores from {threshold:g}")
    captions = [title if column == 0 else "" for title in titles for column in range(len(rows[0]))]
    with atomic_path(path) as temporary:
        sheet = paint.contact_sheet([*rows[0], *rows[1]], captions, columns=len(rows[0]), side=THINGS_WIDTH)
        Image.fromarray(sheet).save(temporary)


RESULT, CLASSES, CONFUSION, EXAMPLES = "result.json", "classes.csv", "confusion.png", "examples.png"
STATE = "counts.pt"  # where an interrupted evaluation continues


def need_matplotlib() -> None:
    """Raise UserError if figures cannot be drawn."""
    need("matplotlib", "a figure")


def write_report(result: Result, folder: Path) -> None:
    """Write result.json, classes.csv and confusion.png; the same bytes for the same result."""
    write_text(folder / RESULT, result.to_json())
    write_text(folder / CLASSES, result.to_csv())
    draw_confusion(result, folder / CONFUSION)
