"""The outcome of an evaluation."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from denseclip.errors import UserError
from denseclip.evaluate.metrics import ConfusionMatrix, percent
from denseclip.evaluate.protocol import Protocol


@dataclass(frozen=True)
class ClassRow:
    """Figures of one class in percent, nan where it does not occur; pixels: how many are truly of it."""

    name: str
    unseen: bool
    iou: float
    accuracy: float
    precision: float
    pixels: int


@dataclass(frozen=True)
class Result:
    """Pixel counts of a model on a data set, and the protocol they were made under.

    matrix: with counts per image. classes, unseen: of the data set. skipped: one message for each image that
    could not be used. seconds: what it took, all runs together; not stored, as it is no property of the figures.
    """

    protocol: Protocol
    matrix: ConfusionMatrix
    classes: tuple[str, ...]
    unseen: tuple[int, ...] = ()
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def images(self) -> int:
        """How many images were counted."""
        return len(self.matrix.per_image)

    @property
    def seen(self) -> tuple[int, ...]:
        """Indices of the classes that are not unseen."""
        return tuple(k for k in range(len(self.classes)) if k not in self.unseen)

    def summary(self) -> dict[str, float]:
        """Percent, not rounded: mIoU, pAcc, mAcc; with unseen classes also each of (S) and (U), and hIoU."""
        report = self.matrix.report(self.seen, self.unseen)
        found = {}
        for group, suffix in (("all", ""), ("seen", "(S)"), ("unseen", "(U)")):
            if group in report:
                one = report[group]
                for name, value in (("mIoU", one.miou), ("pAcc", one.pacc), ("mAcc", one.macc)):
                    found[name + suffix] = value * 100
        if "hiou" in report:
            found["hIoU"] = report["hiou"] * 100
        return found

    def table(self) -> list[ClassRow]:
        """Figures of every class, in the data set's order."""
        figures = zip(
            self.matrix.iou().tolist(),
            self.matrix.accuracy().tolist(),
            self.matrix.precision().tolist(),
            self.matrix.matrix.sum(1).tolist(),
            strict=True,
        )
        return [
            ClassRow(name, k in self.unseen, iou * 100, accuracy * 100, precision * 100, pixels)
            for k, (name, (iou, accuracy, precision, pixels)) in enumerate(
                zip(self.classes, figures, strict=True)
            )
        ]

    def to_json(self) -> str:
        """JSON with the figures (percent, two decimals) and all counts; the same for the same evaluation."""
        rows = [
            {
                "class": row.name,
                "unseen": row.unseen,
                "IoU": _number(row.iou),
                "accuracy": _number(row.accuracy),
                "precision": _number(row.precision),
                "pixels": row.pixels,
            }
            for row in self.table()
        ]
        content = {
            "protocol": self.protocol.to_dict(),
            "summary": {name: _number(value) for name, value in self.summary().items()},
            "classes": rows,
            "images": self.images,
            "skipped": self.skipped,
            "matrix": _sparse(self.matrix.matrix.cpu()[..., None]),
            "per_image": [_sparse(image) for image in self.matrix.per_image],
        }
        lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read `to_json()`; raises UserError for any other text."""
        try:
            content = json.loads(text)
            rows = content["classes"]
            count = len(rows)
            if not count:
                raise ValueError("it has no classes")
            matrix = ConfusionMatrix(count, per_image=True)
            images = [_dense(image, (count, 3)) for image in content["per_image"]]
            stacked = torch.stack(images) if images else torch.zeros(0, count, 3, dtype=torch.int64)
            total = _dense(content["matrix"], (count, count, 1))[..., 0]
            matrix.load_state_dict({"matrix": total, "per_image": stacked})
            return cls(
                Protocol.from_dict(content["protocol"]),
                matrix,
                tuple(row["class"] for row in rows),
                tuple(k for k, row in enumerate(rows) if row["unseen"]),
                list(content["skipped"]),
            )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {str(error)[:80]}"
            raise UserError(f"this is no result of an evaluation ({reason}): evaluate again") from None


def _number(value: float) -> float | None:
    """Percent with two decimals as JSON can hold it."""
    return None if math.isnan(value) else percent(value / 100)


def _sparse(counts: Tensor) -> list[list[int]]:
    """(.., n) counts -> [*index, *n counts] wherever one of them is not zero."""
    where = counts.any(-1).nonzero()
    return torch.cat([where, counts[tuple(where.T)]], 1).tolist()


def _dense(entries: Sequence[Sequence[int]], shape: tuple[int, ...]) -> Tensor:
    counts = torch.zeros(shape, dtype=torch.int64)
    if entries:
        columns = torch.tensor(entries, dtype=torch.int64)
        counts[tuple(columns[:, : len(shape) - 1].T)] = columns[:, len(shape) - 1 :]
    return counts
