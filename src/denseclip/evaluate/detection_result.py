"""The outcome of a detector's evaluation."""

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from denseclip.errors import UserError
from denseclip.evaluate.protocol import Protocol
from denseclip.io import write_text


@dataclass(frozen=True)
class DetectionResult:
    """Average precisions in percent, nan where nothing was to be found.

    figures: "box AP" (mean over IoU .5 to .95), "box AP50", "box AP75", "box APs", "box APm", "box APl" (small,
    medium, large things), and the same of masks. classes: "box AP" and "mask AP" of each. images: how many were
    counted. skipped: one message for each image that could not be used. seconds: what it took; not stored.
    """

    protocol: Protocol
    figures: Mapping[str, float]
    classes: Mapping[str, Mapping[str, float]]
    images: int
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self) -> dict[str, float]:
        """The figures that are numbers."""
        return {name: value for name, value in self.figures.items() if not math.isnan(value)}

    def to_json(self) -> str:
        """JSON with two decimals, the same for the same evaluation."""
        content = {
            "protocol": self.protocol.to_dict(),
            "summary": {name: _number(value) for name, value in self.figures.items()},
            "classes": {
                name: {kind: _number(value) for kind, value in figures.items()}
                for name, figures in self.classes.items()
            },
            "images": self.images,
            "skipped": self.skipped,
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read `to_json()`; raises UserError for any other text."""
        try:
            raw = json.loads(text)
            classes = {name: _floats(figures) for name, figures in raw["classes"].items()}
            protocol = Protocol.from_dict(raw["protocol"])
            return cls(protocol, _floats(raw["summary"]), classes, raw["images"], raw["skipped"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {str(error)[:80]}"
            raise UserError(f"this is no result of a detector ({reason}): evaluate again") from None

    def to_csv(self) -> str:
        """One line a class."""
        kinds = list(next(iter(self.classes.values()), {}))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["class", *kinds])
        for name, figures in self.classes.items():
            shown = ("" if math.isnan(figures[kind]) else f"{figures[kind]:.2f}" for kind in kinds)
            writer.writerow([name, *shown])
        return text.getvalue()

    def write(self, folder: Path, found: list[dict[str, Any]]) -> None:
        """result.json, classes.csv, and detections.json: what was found, as a COCO results file."""
        write_text(folder / "result.json", self.to_json())
        write_text(folder / "classes.csv", self.to_csv())
        write_text(folder / "detections.json", json.dumps(found) + "\n")


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 2)


def _floats(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else float(value) for name, value in values.items()}
