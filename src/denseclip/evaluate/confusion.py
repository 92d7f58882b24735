"""The confusion matrix as a figure (paper Figure 4)."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from denseclip.evaluate.curves import save_figure
from denseclip.evaluate.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELLED = 200  # classes whose names can still be read


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
        _box(axes, 0, len(seen), "seen", "deepskyblue")
        _box(axes, len(seen), len(unseen), "unseen", "red")
    protocol = result.protocol
    axes.set_title(f"{protocol.model} on {protocol.data}, {protocol.split}", fontsize=10)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    save_figure(figure, path)


def _name(axes: "Axes", names: list[str]) -> None:
    if len(names) > LABELLED:
        axes.set_xticks([])
        axes.set_yticks([])
        return
    size = 8 if len(names) <= 60 else 6
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)


def _box(axes: "Axes", first: int, count: int, name: str, colour: str) -> None:
    """A frame around the square of one group, and its name beside the matrix."""
    from matplotlib.patches import Rectangle

    corner = (first - 0.5, first - 0.5)
    axes.add_patch(Rectangle(corner, count, count, fill=False, edgecolor=colour, linewidth=1.5))
    middle = first + count / 2 - 0.5
    axes.annotate(
        name, (1.01, middle), xycoords=("axes fraction", "data"), rotation=270, va="center", fontsize=9
    )
