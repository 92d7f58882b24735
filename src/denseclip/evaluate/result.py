"""The figures of an evaluation, the protocol they were made under, and two of them side by side."""

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self

import torch
from torch import Tensor

from denseclip.data.datasets import SegmentationDataset
from denseclip.errors import UserError
from denseclip.evaluate.metrics import ConfusionMatrix, Difference, contrast, figure
from denseclip.segment.segmenter import Segmenter

Corruption = tuple[str, int]  # kind and level


def digest(text: str) -> str:
    """What tells one content from another: 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def versions(**packages: str) -> dict[str, str]:
    """Of denseclip, torch and these packages, by what they are called here."""
    named = {"denseclip": "denseclip", "torch": "torch", **packages}
    return {name: _version(package) for name, package in named.items()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def number(value: float) -> float | None:
    """Two decimals, as JSON can hold them: None for nan."""
    return None if math.isnan(value) else round(value, 2)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV; floats have two decimals, and are empty where they are nan."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        shown = (f"{v:.2f}".replace("nan", "") if isinstance(v, float) else v for v in row)
        writer.writerow(list(shown))
    return text.getvalue()


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Whatever a wrong text leads to becomes a UserError: it is no `what`."""
    try:
        yield
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {str(error)[:80]}"
        raise UserError(f"this is no {what} ({reason}): evaluate again") from None


@dataclass(frozen=True)
class Protocol:
    """What was run on what; two figures can be compared where only what is compared differs.

    model: name. details: `Clip.describe()`, precision and device last. weights: start of `Clip.fingerprint`.
    data, split, images: what was asked for. contents: start of a hash over the image ids, the classes, their
    words and how scenes are rendered. settings: `Settings.describe()`. corruption: kind and level, or None.
    versions: of the packages. machine: precision, why it was chosen, and the processor; it takes no part
    in `differences`, where `details` tells one precision from another.
    """

    model: str
    details: str
    weights: str
    data: str
    split: str
    images: int
    contents: str
    settings: Mapping[str, Any]
    corruption: Corruption | None
    versions: Mapping[str, str]
    machine: str = field(default="", compare=False)

    @classmethod
    def of(
        cls,
        segmenter: Segmenter,
        dataset: SegmentationDataset,
        images: int,
        corruption: Corruption | None = None,
    ) -> Self:
        """The protocol of the first `images` images of a data set under a segmenter."""
        clip, spec = segmenter.clip, dataset.spec
        ids = [entry.image_id for entry in dataset.entries[:images]]
        contents: tuple[Any, ...] = (ids, spec.classes, spec.prompts, spec.background, spec.scenes)
        if segmenter.settings.compat.by_word:  # whose words are the method's, not the data set's
            contents += (segmenter.class_prompts.prompts,)
        return cls(
            clip.name,
            clip.describe().removeprefix(f"{clip.name}: "),
            clip.fingerprint[:12],
            spec.name,
            dataset.split,
            images,
            digest(repr(contents))[:12],
            segmenter.settings.describe(),
            corruption,
            versions(open_clip="open_clip_torch"),
            segmenter.machine,
        )

    def describe(self) -> dict[str, Any]:
        """A flat form to print or to store as JSON."""
        flat = {f.name: getattr(self, f.name) for f in fields(self)[:7]}
        corruption = f"{self.corruption[0]}, level {self.corruption[1]}" if self.corruption else "none"
        return {
            **flat,
            **self.settings,
            "corruption": corruption,
            "precision": self.machine,
            **self.versions,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` reads back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_dict()`, also after JSON."""
        corruption = values["corruption"]
        return cls(**{**values, "corruption": (corruption[0], corruption[1]) if corruption else None})

    def differences(self, other: "Protocol") -> list[str]:
        """Keys of `describe()` in which two protocols differ."""
        mine, theirs = self.describe(), other.describe()
        return [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key) and key != "precision"]


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
        return {name: value * 100 for name, value in self.matrix.summary(self.unseen).items()}

    def table(self) -> list[ClassRow]:
        """Figures of every class, in the data set's order."""
        matrix = self.matrix
        shares = [(100 * values).tolist() for values in (matrix.iou(), matrix.accuracy(), matrix.precision())]
        rows = zip(self.classes, *shares, matrix.matrix.sum(1).tolist(), strict=True)
        return [ClassRow(name, k in self.unseen, *figures) for k, (name, *figures) in enumerate(rows)]

    def to_json(self) -> str:
        """JSON with the figures (percent, two decimals) and all counts; the same for the same evaluation."""
        rows = [
            {
                "class": row.name,
                "unseen": row.unseen,
                "IoU": number(row.iou),
                "accuracy": number(row.accuracy),
                "precision": number(row.precision),
                "pixels": row.pixels,
            }
            for row in self.table()
        ]
        content = {
            "protocol": self.protocol.to_dict(),
            "summary": {name: number(value) for name, value in self.summary().items()},
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
        with reading("result of an evaluation"):
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

    def to_csv(self) -> str:
        """CSV with one line a class, percent with two decimals, empty where a class does not occur."""
        rows = [
            (r.name, "unseen" if r.unseen else "seen", r.iou, r.accuracy, r.precision, r.pixels)
            for r in self.table()
        ]
        return csv_text(["class", "group", "IoU", "accuracy", "precision", "pixels"], rows)


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


@dataclass(frozen=True)
class Comparison:
    """Two results and the differences of their mIoU, first minus second, by group: "mIoU", and with unseen
    classes "mIoU(S)" and "mIoU(U)"; fractions, with the 95 % interval over images.
    """

    first: Result
    second: Result
    differences: dict[str, Difference]

    def class_rows(self) -> list[tuple[str, float, float]]:
        """Name and IoU of either model in percent, for every class."""
        pairs = zip(self.first.table(), self.second.table(), strict=True)
        return [(a.name, a.iou, b.iou) for a, b in pairs]

    def to_json(self) -> str:
        """JSON with both summaries (percent) and the differences (percentage points)."""
        content = {
            "models": [result.protocol.describe() for result in (self.first, self.second)],
            "summaries": [
                {name: round(value, 2) for name, value in result.summary().items()}
                for result in (self.first, self.second)
            ],
            "differences": {
                name: {
                    "value": round(one.value * 100, 2),
                    "low": round(one.low * 100, 2),
                    "high": round(one.high * 100, 2),
                    "significant": one.significant,
                }
                for name, one in self.differences.items()
            },
        }
        return json.dumps(content, indent=1) + "\n"

    def to_csv(self) -> str:
        """CSV with the IoU of every class under both models."""
        return csv_text(["class", "first", "second"], self.class_rows())


def compare(first: Result, second: Result) -> Comparison:
    """Compare two results on the same images; raises UserError if they are not."""
    one, two = first.protocol, second.protocol
    for what in ("data", "split", "images", "contents", "corruption"):
        if getattr(one, what) != getattr(two, what):
            raise UserError(
                f"the two results are not of the same images (other {what}): evaluate both models in one call"
            )
    if first.skipped != second.skipped:
        raise UserError("the two models skipped different images: repair those, then evaluate both again")
    names = ["mIoU", "mIoU(S)", "mIoU(U)"] if first.seen and first.unseen else ["mIoU"]
    counts = [first.matrix.per_image, second.matrix.per_image]
    of = {name: figure(name, len(first.classes), first.unseen) for name in names}
    return Comparison(first, second, {name: contrast(counts, [1.0, -1.0], of=of[name]) for name in names})
