"""What a job found, for people: summary, table, and contact sheet."""

import base64
import csv
import heapq
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from denseclip.io import write_text
from denseclip.label.formats.base import below, save, write_lines
from denseclip.label.journal import SKIPPED, Record
from denseclip.label.labelled import Labeled, Labels
from denseclip.segment import paint

LEAST = 100  # pictures listed as the least confident, and as skipped
Records = Callable[[], Iterator[tuple[int, Record]]]


def measure(picture: Labeled) -> Record:
    """What the summary needs to know of a picture.

    pixels: {class: pixels}, void as "void". sure: {class: sum of confidence}. confidence: mean over the picture.
    """
    ids = picture.mask.ravel()
    every = np.bincount(ids)
    values = every.nonzero()[0]
    counts, sums = every[values], np.bincount(ids, picture.confidence.ravel())[values]
    names = ["void" if v == picture.labels.void else str(v) for v in values.tolist()]
    return {
        "pixels": dict(zip(names, counts.tolist(), strict=True)),
        "sure": {name: round(float(s), 3) for name, s in zip(names, sums, strict=True)},
        "confidence": round(float(picture.confidence.mean(dtype=np.float64)), 4),
        "regions": len(picture.regions),
    }


@dataclass
class Summary:
    """Totals over a job. pixels, pictures, sure: by class id or "void"; least: (confidence, file), rising."""

    labels: Labels
    labeled: int = 0
    skipped: int = 0
    regions: int = 0
    pixels: dict[str, int] = field(default_factory=dict)
    pictures: dict[str, int] = field(default_factory=dict)
    sure: dict[str, float] = field(default_factory=dict)
    least: list[tuple[float, str]] = field(default_factory=list)
    reasons: list[tuple[str, str]] = field(default_factory=list)
    unread: Mapping[str, int] = field(default_factory=dict)
    machine: str = ""

    @classmethod
    def of(cls, labels: Labels, records: Records, **told: Any) -> Self:
        """Add up a journal. told: `unread`, pictures of kinds that cannot be read, by suffix; and `machine`."""
        made = cls(labels, **told)
        for _, record in records():
            made._add(record)
        made.least = heapq.nsmallest(
            LEAST, ((r["confidence"], r["file"]) for _, r in records() if SKIPPED not in r)
        )
        return made

    def _add(self, record: Record) -> None:
        if SKIPPED in record:
            self.skipped += 1
            if self.skipped <= LEAST:
                self.reasons.append((record["file"], record[SKIPPED]))
            return
        self.labeled += 1
        self.regions += record["regions"]
        for name, count in record["pixels"].items():
            self.pixels[name] = self.pixels.get(name, 0) + count
            self.pictures[name] = self.pictures.get(name, 0) + 1
            self.sure[name] = self.sure.get(name, 0.0) + record["sure"][name]

    def rows(self) -> list[dict[str, Any]]:
        """One per class, void last: class, pixels, share, pictures, confidence (mean over its pixels)."""
        total = max(1, sum(self.pixels.values()))
        names = [*((str(k), name) for k, name in enumerate(self.labels.classes)), ("void", "(void)")]
        return [
            {
                "class": name,
                "pixels": self.pixels.get(key, 0),
                "share": round(self.pixels.get(key, 0) / total, 6),
                "pictures": self.pictures.get(key, 0),
                "confidence": round(self.sure[key] / self.pixels[key], 4) if key in self.pixels else None,
            }
            for key, name in names
            if key != "void" or key in self.pixels
        ]

    @property
    def confidence(self) -> float | None:
        """Mean over all pixels."""
        total = sum(self.pixels.values())
        return round(sum(self.sure.values()) / total, 4) if total else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "labeled": self.labeled,
            "skipped": self.skipped,
            "regions": self.regions,
            "confidence": self.confidence,
            "classes": self.rows(),
            "least_confident": [{"file": file, "confidence": value} for value, file in self.least],
            "unread": dict(self.unread),
            "machine": self.machine,
            "skipped_files": [{"file": file, "reason": reason} for file, reason in self.reasons],
        }


def write_summary(out: Path, labels: Labels, records: Records, **told: Any) -> Summary:
    """summary.json; pictures.csv, one line per picture, the skipped with their reasons."""
    summary = Summary.of(labels, records, **told)
    write_text(out / "summary.json", json.dumps(summary.to_dict(), indent=1, ensure_ascii=False) + "\n")
    write_lines(out / "pictures.csv", _table(labels, records))
    return summary


def _table(labels: Labels, records: Records) -> Iterator[str]:
    yield _row("file", "name", "width", "height", "regions", "classes", "confidence", "skipped")
    for _, r in records():
        if SKIPPED in r:
            yield _row(r["file"], r["name"], "", "", "", "", "", r[SKIPPED])
        else:
            found = sum(name != "void" and int(name) != labels.background for name in r["pixels"])
            yield _row(
                r["file"], r["name"], r["width"], r["height"], r["regions"], found, r["confidence"], ""
            )


def _row(*values: object) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()


OVERLAY_SIDE = 1600


def write_overlay(picture: Labeled, out: Path) -> None:
    """overlays/NAME.jpg: the picture under its labels, with a legend, not larger than `OVERLAY_SIDE`."""
    image = picture.result.smaller(OVERLAY_SIDE).overlay()
    save(image, below(out / "overlays", picture.item.name, ".jpg"), quality=88)


def tile(picture: Labeled) -> str:
    """A small overlay, as text."""
    image = picture.result.smaller(paint.SIDE).overlay(legend=False, names=False)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def write_sheet(path: Path, labels: Labels, records: Iterator[tuple[int, Record]]) -> None:
    """A grid of the records' tiles with a legend of the classes they hold, the largest first."""
    tiles, areas = [], np.zeros(len(labels.classes))
    for _, record in records:
        if "tile" not in record:
            continue
        picture = Image.open(io.BytesIO(base64.b64decode(record["tile"]))).convert("RGB")
        tiles.append((picture, f"{record['confidence']:.2f} {record['name']}"))
        for name, count in record["pixels"].items():
            if name != "void":
                areas[int(name)] += count / sum(record["pixels"].values())
    if not tiles:
        return
    pictures, captions = zip(*tiles, strict=True)
    save(paint.overview(pictures, captions, labels.classes, areas / len(tiles)), path, quality=90)
