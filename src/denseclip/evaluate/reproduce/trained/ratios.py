"""Named figures of a table: one weighted sum of rows over another."""

from collections.abc import Mapping
from statistics import fmean

from denseclip.evaluate.reproduce.trained.sides import Everything
from denseclip.recipes.trained import FigurePart, TrainedTable


def ratios(table: TrainedTable, made: Everything) -> dict[str, tuple[float, float | None]]:
    """By name, our figure from means over seeds, and the published one if all its rows are published.

    Figures whose rows are not all there are left out.
    """
    rows = {(row.name, row.data): row for row in table.rows}
    found = {}
    for part in table.figures:
        ours = _ratio(part, {name: _mean(part, name, made) for name in part.names})
        if ours is not None:
            printed = {name: table.published(rows[name, part.data]).get(part.metric) for name in part.names}
            beside = _ratio(
                part, {name: None if text is None else float(text) for name, text in printed.items()}
            )
            found[part.name] = (ours, beside)
    return found


def _mean(part: FigurePart, name: str, made: Everything) -> float | None:
    values = [one.result.summary()[part.metric] for one in made.get((name, part.data), ())]
    return fmean(values) if values else None


def _ratio(part: FigurePart, values: Mapping[str, float | None]) -> float | None:
    known = {name: value for name, value in values.items() if value is not None}
    if len(known) < len(values):
        return None
    bottom = _sum(part.bottom, known) if part.bottom else 1.0
    return round(_sum(part.top, known) / bottom, 4) if bottom else None


def _sum(weights: Mapping[str, float], values: Mapping[str, float]) -> float:
    return sum(weight * values[name] for name, weight in weights.items())
