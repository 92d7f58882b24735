"""mIoU against the level of each corruption, as a figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from denseclip.evaluate.protocol import Corruption
from denseclip.io import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = Mapping[Corruption | None, float]
"""mIoU in percent by corruption; None is the clean one."""


def draw_curves(path: Path, title: str, curves: Mapping[str, Curve]) -> None:
    """Write a PNG with a panel for each kind and a line for each model, level 0 being clean."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(key[0] for curve in curves.values() for key in curve if key))
    columns = min(4, len(kinds))
    rows = -(-len(kinds) // columns)
    figure = Figure(figsize=(2.6 * columns + 0.6, 2.3 * rows + 0.8), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for panel in panels[len(kinds) :]:
        panel.set_visible(False)
    for panel, kind in zip(panels, kinds, strict=False):
        for name, curve in curves.items():
            levels = sorted(key[1] for key in curve if key and key[0] == kind)
            values = [curve[None], *(curve[kind, level] for level in levels)]
            panel.plot([0, *levels], values, marker="o", markersize=3, label=name)
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
