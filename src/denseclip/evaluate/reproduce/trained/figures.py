"""A table with trained rows as a figure."""

from pathlib import Path
from typing import TYPE_CHECKING

from denseclip.evaluate.curves import save_figure
from denseclip.evaluate.reproduce.trained.report import TrainedLine, TrainedReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABEL = 46  # characters of a row's name


def draw(report: TrainedReport, path: Path) -> None:
    """Write a PNG: bars by data set, row and metric, with the range over runs; rings where figures were published."""
    from matplotlib.figure import Figure

    data = list(dict.fromkeys(line.row.data for line in report.lines))
    groups = [[line for line in report.lines if line.row.data == name] for name in data]
    bars = [len(group) * (len(report.table.metrics) + 1) for group in groups]
    figure = Figure(figsize=(8.0, 1.2 + 0.17 * sum(bars) + 0.5 * len(data)), layout="constrained")
    panels = figure.subplots(len(data), 1, squeeze=False, sharex=True, height_ratios=bars)[:, 0]
    for panel, group in zip(panels, groups, strict=True):
        _draw_rows(panel, group, report)
    panels[-1].set_xlabel("percent", fontsize=9)
    beside = "rings: as published" + (" on other data" if report.scale == "mini" else "")
    figure.suptitle(f"{report.table.title}; lines: range over runs; {beside}", fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    save_figure(figure, path)


def _draw_rows(panel: "Axes", lines: list[TrainedLine], report: TrainedReport) -> None:
    metrics = report.table.metrics
    height = 1 / (len(metrics) + 1)
    for number, metric in enumerate(metrics):
        places = [row + (number + 0.5) * height for row in range(len(lines))]
        means = [line.mean(metric) or 0.0 for line in lines]  # nothing to see of what is not there
        colour = f"C{number}"
        panel.barh(places, means, height, color=colour, xerr=_ranges(lines, metric), label=metric)
        beside = [
            (float(line.published[metric]), place)
            for line, place in zip(lines, places, strict=True)
            if metric in line.published
        ]
        panel.plot(*zip(*beside, strict=True), "o", mfc="none", mec="black", ms=4) if beside else None
    panel.set_yticks(
        [row + (1 - height) / 2 for row in range(len(lines))], [_label(line, lines) for line in lines]
    )
    panel.tick_params(labelsize=8)
    panel.invert_yaxis()
    panel.set_xlim(0, 100)
    panel.set_title(lines[0].data, fontsize=9)
    panel.grid(axis="x", alpha=0.3)


def _ranges(lines: list[TrainedLine], metric: str) -> list[list[float]]:
    """Distances from the mean down to the lowest run and up to the highest."""
    values = [line.values(metric) or [0.0] for line in lines]
    means = [line.mean(metric) or 0.0 for line in lines]
    return [
        [max(0.0, mean - min(found)) for mean, found in zip(means, values, strict=True)],
        [max(0.0, max(found) - mean) for mean, found in zip(means, values, strict=True)],
    ]


def _label(line: TrainedLine, lines: list[TrainedLine]) -> str:
    """The row's method, and what tells it from the data set's other rows of the method."""
    text = line.row.method
    if sum(other.row.method == text for other in lines) > 1:
        text += f": {line.teacher if line.row.teacher else line.row.name}"
    text = text if len(text) <= _LABEL else f"{text[: _LABEL - 1]}…"
    return f"{text} ({line.missing})" if line.missing else text
