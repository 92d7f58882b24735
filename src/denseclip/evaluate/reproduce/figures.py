"""A reproduced table as a figure."""

from pathlib import Path

from denseclip.evaluate.curves import draw_curves, save_figure
from denseclip.evaluate.protocol import Corruption
from denseclip.evaluate.reproduce.report import Line, Report


def draw(report: Report, path: Path) -> None:
    """Write a PNG: curves over the levels of corruptions, or bars by data set, model and method."""
    if report.recipe.levels:
        title = f"{report.recipe.title} ({', '.join(dict.fromkeys(x.row.data for x in report.lines))})"
        draw_curves(path, title, _curves(report))
    else:
        _draw_bars(report, path)


def _curves(report: Report) -> dict[str, dict[Corruption | None, float]]:
    curves: dict[str, dict[Corruption | None, float]] = {}
    for line in report.lines:
        curves.setdefault(line.row.model, {})[line.row.method.corruption] = line.miou
    return curves


def _draw_bars(report: Report, path: Path) -> None:
    from matplotlib.figure import Figure

    data = list(dict.fromkeys(line.row.data for line in report.lines))
    models = list(dict.fromkeys(line.row.model for line in report.lines))
    methods = list(dict.fromkeys(line.row.method.name for line in report.lines))
    figure = Figure(
        figsize=(max(3.2, 0.5 * len(models) * len(methods)) * len(data), 3.4), layout="constrained"
    )
    panels = figure.subplots(1, len(data), squeeze=False)[0]
    width = 0.8 / len(methods)
    for panel, name in zip(panels, data, strict=True):
        for number, method in enumerate(methods):
            lines = [x for x in report.lines if (x.row.data, x.row.method.name) == (name, method)]
            places = [models.index(x.row.model) + (number - (len(methods) - 1) / 2) * width for x in lines]
            panel.bar(places, [x.miou for x in lines], width, yerr=_errors(lines), capsize=2, label=method)
        panel.set_xticks(range(len(models)), models)
        panel.set_title(name, fontsize=9)
        panel.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("mIoU, %", fontsize=9)
    figure.suptitle(f"{report.recipe.title}; bars: 95 % over images", fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    save_figure(figure, path)


def _errors(lines: list[Line]) -> list[list[float]]:
    """Distances from the figure down and up to its interval; a resampled interval may leave the figure out."""
    below = [max(0.0, line.miou - line.low) for line in lines]
    return [below, [max(0.0, line.high - line.miou) for line in lines]]
