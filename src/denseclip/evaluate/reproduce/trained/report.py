"""A table with trained rows as JSON and CSV: the same figures, the same bytes."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Self

from denseclip.evaluate.metrics import percent
from denseclip.evaluate.reproduce.claims import Claim
from denseclip.evaluate.reproduce.report import special
from denseclip.evaluate.reproduce.trained.costs import costs
from denseclip.evaluate.reproduce.trained.runs import Made, Run
from denseclip.evaluate.reproduce.trained.verdicts import Waiting
from denseclip.recipes import ScaleName
from denseclip.recipes.trained import RowRecipe, TrainedTable
from denseclip.train.recipe import TrainRecipe


@dataclass(frozen=True)
class TrainedLine:
    """One row. planned: how many runs it should have. made: those that it has. protocol: what not all rows share."""

    row: RowRecipe
    name: str
    recipe: TrainRecipe
    planned: int
    made: tuple[Made, ...]
    published: Mapping[str, str]
    protocol: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        runs: Sequence[Run],
        made: Sequence[Made],
        published: Mapping[str, str],
        shared: Mapping[str, Any],
    ) -> Self:
        """A row from all its runs and those that are finished. shared: see `common`."""
        protocol = special(made[0].result, shared) if made else {}
        first = runs[0]
        return cls(first.row, first.name, first.recipe, len(runs), tuple(made), published, protocol)

    @property
    def data(self) -> str:
        """What it was evaluated on."""
        return self.recipe.data.val or ""

    @property
    def teacher(self) -> str:
        """Who labelled, with what it is made dense with if that is not the usual way; "" without labels of it."""
        part = self.recipe.teacher
        if not (self.row.teacher or self.recipe.teacher_needed):
            return ""
        ways = [way for way in (part.preset, part.refine) if way and way != "maskclip"]
        return " ".join([_name(part.model), *(f"({way})" for way in ways)])

    @property
    def student(self) -> str:
        """What was trained."""
        part, other = self.recipe.student, self.recipe.denseclip
        if self.row.teacher:
            return ""
        if self.recipe.system == "detection":
            head = {"retinanet": "RetinaNet", "maskrcnn": "Mask R-CNN"}
            return f"{_name(other.clip)}, {head[self.recipe.detection.config.get('kind', 'retinanet')]}"
        if self.recipe.system == "denseclip":
            weights = "" if other.weights == "clip" else " from random weights"
            return f"{_name(other.clip)}{weights}, Semantic FPN"
        backbone = _name(self.recipe.clips[-1]) if part.from_clip else part.backbone
        return f"{backbone.removeprefix('timm:')}, {part.head}, stride {part.output_stride}"

    def values(self, metric: str) -> list[float]:
        """Percent by run, two decimals; empty where there is no run, or no such figure."""
        found = (made.result.summary().get(metric) for made in self.made)
        return [percent(value / 100) for value in found if value is not None]

    def mean(self, metric: str) -> float | None:
        """Over runs, in percent."""
        values = self.values(metric)
        return round(fmean(values), 2) if values else None

    def spread(self, metric: str) -> float | None:
        """Standard deviation over runs, None for fewer than two."""
        values = self.values(metric)
        return round(stdev(values), 2) if len(values) > 1 else None

    @property
    def missing(self) -> str:
        """What is not there yet, "" if all is."""
        if len(self.made) == self.planned:
            return ""
        return f"{len(self.made)} of {self.planned} seeds" if self.made else "not made yet"

    @property
    def command(self) -> str:
        """What trains its first run."""
        return "" if self.row.teacher else f"denseclip train {self.name} seed={self.recipe.seed}"

    def to_dict(self, metrics: Sequence[str]) -> dict[str, Any]:
        """Plain values for CSV."""
        about = {
            "data": self.data,
            "stands_for": self.row.data,
            "method": self.row.method,
            "teacher": self.teacher,
            "student": self.student,
            "recipe": self.name,
            "runs": len(self.made),
            "planned": self.planned,
        }
        for metric in metrics:
            about |= {metric: self.mean(metric), f"{metric} spread": self.spread(metric)}
            about |= {f"{metric} published": self.published.get(metric)}
        return about

    def to_json(self, metrics: Sequence[str]) -> dict[str, Any]:
        """Also every run's own figures and what it was made with."""
        return {
            **self.to_dict(metrics),
            "missing": self.missing,
            "seeds": [made.run.recipe.seed for made in self.made if made.run.seed is not None],
            "per_run": {metric: self.values(metric) for metric in metrics},
            "images": self.made[0].result.images if self.made else None,
            "weights": [made.result.protocol.weights for made in self.made],
            "seconds": [round(made.seconds) for made in self.made],
            "warnings": [list(made.warnings) for made in self.made],
            "command": self.command,
            "protocol": dict(self.protocol),
        }


@dataclass(frozen=True)
class TrainedReport:
    """Everything that is written about one table with trained rows.

    others: figures of other papers' methods as published, by data set and method. ratios: named figures with the
    published value, if there is one. open: claims that wait for rows; in JSON `held` is null.
    """

    table: TrainedTable
    scale: ScaleName
    command: str
    protocol: Mapping[str, Any]
    lines: Sequence[TrainedLine]
    others: Mapping[tuple[str, str], Mapping[str, str]]
    claims: Sequence[Claim]
    open: Sequence[Waiting]
    ratios: Mapping[str, tuple[float, float | None]]
    notes: Sequence[str]

    @property
    def stem(self) -> str:
        """Name of the files, without a suffix."""
        return f"{self.table.name}-{self.scale}"

    @property
    def complete(self) -> bool:
        """Whether every run is there."""
        return not any(line.missing for line in self.lines)

    def content(self) -> dict[str, Any]:
        """Plain values with `rows`, `claims` and `claims_figures`."""
        metrics = self.table.metrics
        return {
            "title": self.table.title,
            "scale": self.scale,
            "command": self.command,
            "complete": self.complete,
            "protocol": dict(self.protocol),
            "notes": list(self.notes),
            "rows": [line.to_json(metrics) for line in self.lines],
            "others": [
                {"data": data, "method": method, **values} for (data, method), values in self.others.items()
            ],
            "claims": [claim.to_dict() for claim in self.claims] + [_open(*one) for one in self.open],
            "claims_figures": self.figures(),
            **({"costs": list(costs(self.table.costs))} if self.table.costs else {}),
            "published_figures": {
                name: value for name, (_, value) in self.ratios.items() if value is not None
            },
        }

    def to_json(self) -> str:
        """`content` as text."""
        return json.dumps(self.content(), indent=1, ensure_ascii=False) + "\n"

    def figures(self) -> dict[str, float]:
        """Every figure that the claims are about, by a name of its own."""
        found = {name: value for name, (value, _) in self.ratios.items()}
        for line in self.lines:
            for metric in self.table.metrics:
                if (mean := line.mean(metric)) is not None:
                    found[f"{line.row.name} / {line.data} / {metric}"] = mean
        return found | {f"difference: {claim.claim}": claim.figures["difference"] for claim in self.claims}

    def to_csv(self) -> str:
        """CSV with one line a row, after comment lines with command and protocol."""
        text = io.StringIO()
        text.write(f"# {self.command}\n")
        text.writelines(f"# {key}: {value}\n" for key, value in self.protocol.items())
        rows = [line.to_dict(self.table.metrics) for line in self.lines]
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def _open(text: str, lacking: Sequence[str]) -> dict[str, Any]:
    why = f"not measured: {', '.join(lacking) or 'a common seed'} not made yet"
    return {"claim": text, "held": None, "figures": {}, "interval": None, "why": why}


def _name(model: str) -> str:
    """A model's name, of a path its last part."""
    return model.rstrip("/").rpartition("/")[2]
