"""A reproduced table as Markdown, CSV and JSON: the same figures, the same bytes."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from platform import python_version
from typing import Any, Self

from denseclip.evaluate.bootstrap import contrast
from denseclip.evaluate.reproduce.claims import Claim
from denseclip.evaluate.reproduce.evaluated import Evaluated
from denseclip.evaluate.reproduce.grid import Row
from denseclip.evaluate.result import Result
from denseclip.recipes import Recipe, ScaleName, published

_OF_A_ROW = ("model", "details", "weights", "data", "contents", "images", "corruption")


@dataclass(frozen=True)
class Line:
    """One figure of the table, in percent. protocol: what not all rows share."""

    row: Row
    protocol: Mapping[str, Any]
    images: int
    miou: float
    low: float
    high: float
    pacc: float
    macc: float

    @classmethod
    def of(cls, row: Row, result: Result, shared: Mapping[str, Any]) -> Self:
        """The figures of a row, with the 95 % interval of its mIoU over images. shared: see `common`."""
        figures, interval = result.summary(), contrast([result.matrix.per_image], [1.0])
        numbers = (figures["mIoU"], interval.low * 100, interval.high * 100, figures["pAcc"], figures["mAcc"])
        rounded = (round(number, 2) for number in numbers)
        return cls(row, special(result, shared), result.images, *rounded)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for CSV, and with `protocol` for JSON."""
        beside = self.row.published
        return {
            "model": self.row.model,
            "stands_for": self.row.place[0],
            "data": self.row.data,
            "method": self.row.method.name,
            "images": self.images,
            "mIoU": self.miou,
            "low": self.low,
            "high": self.high,
            "pAcc": self.pacc,
            "mAcc": self.macc,
            "published": beside.value if beside else None,
            "published_by": beside.source if beside else None,
        }


@dataclass(frozen=True)
class Report:
    """Everything that is written about one reproduced table."""

    recipe: Recipe
    scale: ScaleName
    command: str
    models: Mapping[str, str]
    protocol: Mapping[str, Any]
    lines: Sequence[Line]
    claims: Sequence[Claim]
    notes: Sequence[str]

    @property
    def stem(self) -> str:
        """Name of the files, without a suffix."""
        return f"{self.recipe.name}-{self.scale}"

    def to_json(self) -> str:
        """JSON with `rows`, `means`, `claims` and `claims_figures`."""
        content = {
            "title": self.recipe.title,
            "scale": self.scale,
            "command": self.command,
            "protocol": self.protocol,
            "models": self.models,
            "notes": list(self.notes),
            "rows": [{**line.to_dict(), "protocol": dict(line.protocol)} for line in self.lines],
            "means": self.means(),
            "claims": [claim.to_dict() for claim in self.claims],
            "claims_figures": self.figures(),
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def figures(self) -> dict[str, float]:
        """Every figure that the claims are about, by a name of its own."""
        rows = {f"{x.row.model} / {x.row.data} / {x.row.method.name}": x.miou for x in self.lines}
        return rows | {f"difference: {claim.claim}": claim.figures["difference"] for claim in self.claims}

    def to_csv(self) -> str:
        """CSV with one line a row, after comment lines with command and protocol."""
        text = io.StringIO()
        text.write(f"# {self.command}\n")
        text.writelines(f"# {key}: {value}\n" for key, value in self.protocol.items())
        rows = [line.to_dict() for line in self.lines]
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def means(self) -> list[dict[str, Any]]:
        """Mean mIoU over the data sets, where the table has it, beside the published one."""
        if not self.recipe.mean:
            return []
        groups: dict[tuple[str, str, str], list[float]] = {}
        for line in self.lines:
            key = (line.row.place[0], line.row.model, line.row.method.name)
            groups.setdefault(key, []).append(line.miou)
        found = []
        for (name, model, method), values in groups.items():
            place = (self.recipe.name, name, "mean", method)
            beside = published().get(place) if self.scale == "paper" else None
            row = {"model": model, "method": method, "mIoU": round(sum(values) / len(values), 2)}
            found.append(row | {"published": beside.value if beside else None})
        return found


def common(results: Sequence[Evaluated]) -> dict[str, Any]:
    """The part of the protocol that all rows share."""
    described = [result.protocol.describe() for result in results]
    first = {key: value for key, value in described[0].items() if key not in _OF_A_ROW}
    same = {k: v for k, v in first.items() if all(other.get(k) == v for other in described)}
    return {**same, "python": python_version()}


def special(result: Evaluated, shared: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a row's protocol that not all rows share."""
    described = result.protocol.describe()
    return {key: value for key, value in described.items() if key not in shared and key not in _OF_A_ROW}


def model_details(row: Row, result: Result) -> str:
    """The model of a row in one line, without where it lies."""
    protocol = result.protocol
    details = protocol.details.removeprefix(f"{protocol.model}: ")
    return f"{details}, weights {protocol.weights}; stands for {row.place[0]}"
