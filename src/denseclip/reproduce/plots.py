"""A reproduced table as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from denseclip.evaluate.plots import draw_curves, save_figure
from denseclip.reproduce.tables import CLEAN

_LABEL = 46  # characters of a row's name
Row = Mapping[str, Any]


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write a PNG of a report: curves over the levels of corruptions, or bars by data set, row and metric.

    Lines on bars are the range over runs, or the 95 % interval over images; rings are as published.
    """
    if report["levels"]:
        _draw_levels(report, path)
        return
    from matplotlib.figure import Figure

    places = dict.fromkeys(row["stands_for"] for row in report["rows"])
    groups = [[row for row in report["rows"] if row["stands_for"] == place] for place in places]
    bars = [len(group) * (len(report["metrics"]) + 1) for group in groups]
    figure = Figure(figsize=(8.0, 1.2 + 0.17 * sum(bars) + 0.5 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, sharex=True, height_ratios=bars)[:, 0]
    for panel, group in zip(panels, groups, strict=True):
        _draw_panel(panel, group, report["metrics"])
    panels[-1].set_xlabel("percent", fontsize=9)
    said = f"{report['title']}\nlines: range over runs, or 95 % over images"
    if any(row[f"{metric} published"] for row in report["rows"] for metric in report["metrics"]):
        said += "; rings: as published" + (" on other data" if report["scale"] == "mini" else "")
    figure.suptitle(said, fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    save_figure(figure, path)


def _draw_levels(report: Mapping[str, Any], path: Path) -> None:
    curves: dict[str, dict[tuple[str, int] | None, float]] = {}
    for row in report["rows"]:
        if row["mIoU"] is not None:
            kind, _, level = row["method"].rpartition(" ")
            corruption = None if row["method"] == CLEAN else (kind, int(level))
            curves.setdefault(row["clip"], {})[corruption] = row["mIoU"]
    data = ", ".join(dict.fromkeys(row["data"] for row in report["rows"]))
    draw_curves(
        path, f"{report['title']} ({data})", {name: curve for name, curve in curves.items() if None in curve}
    )


def _draw_panel(panel: Any, rows: Sequence[Row], metrics: Sequence[str]) -> None:  # noqa: ANN401 - imported late
    height = 1 / (len(metrics) + 1)
    for number, metric in enumerate(metrics):
        places = [row + (number + 0.5) * height for row in range(len(rows))]
        means = [row[metric] or 0.0 for row in rows]  # nothing to see of what is not there
        ends = [_ends(row, metric) for row in rows]
        below = [max(0.0, mean - low) for mean, (low, _) in zip(means, ends, strict=True)]
        above = [max(0.0, high - mean) for mean, (_, high) in zip(means, ends, strict=True)]
        panel.barh(places, means, height, color=f"C{number}", xerr=[below, above], label=metric)
        printed = [(row[f"{metric} published"], place) for row, place in zip(rows, places, strict=True)]
        rings = [(float(value), place) for value, place in printed if value is not None]
        panel.plot([x for x, _ in rings], [y for _, y in rings], "o", mfc="none", mec="black", ms=4)
    panel.set_yticks(
        [row + (1 - height) / 2 for row in range(len(rows))], [_label(row, rows) for row in rows]
    )
    panel.tick_params(labelsize=8)
    panel.invert_yaxis()
    panel.set_xlim(0, 100)
    panel.set_title(rows[0]["data"], fontsize=9)
    panel.grid(axis="x", alpha=0.3)


def _ends(row: Row, metric: str) -> tuple[float, float]:
    """Of the line on a bar; a resampled interval may leave the figure out."""
    if metric == "mIoU" and row["low"] is not None:
        return row["low"], row["high"]
    runs = row["per_run"].get(metric) or [row[metric] or 0.0]
    return min(runs), max(runs)


def _label(row: Row, rows: Sequence[Row]) -> str:
    """The row's method, and what tells it from the data set's other rows of the method."""
    text = row["method"]
    if sum(other["method"] == text for other in rows) > 1:
        text += f": {row['name'] if row['command'] else row['clip']}"
    text = text if len(text) <= _LABEL else f"{text[: _LABEL - 1]}…"
    return f"{text} ({row['missing']})" if row["missing"] else text
