"""Label Studio: tasks with predictions, each region a brush stroke."""

import base64
import hashlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as Xml

import numpy as np
from numpy.typing import NDArray

from denseclip.io import write_text
from denseclip.label.formats.base import Entries, Entry, Writer, listed, write_lines
from denseclip.label.labelled import Labeled
from denseclip.segment.paint import class_colors

SIZES = (3, 4, 8, 16)  # bits of a run's length, of which each run names one
CHANNELS = 4
_LONGEST = 1 << SIZES[-1]


def encode_brush(region: NDArray[np.bool_]) -> bytes:
    """A region (H, W) as RGBA pixels of 255 in all channels, 0 outside.

    32 bits: number of values; 5: their width - 1; 4 x 4: `SIZES` - 1; then runs of a flag, which size (2 bits),
    length - 1 and the value.
    """
    values = region.ravel()
    edges = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1, [values.size]])
    fields = [f"{values.size * CHANNELS:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    lit = bool(values[0])
    for length in (np.diff(edges) * CHANNELS).tolist():
        value = "11111111" if lit else "00000000"
        rest = length
        while rest:
            run = min(rest, _LONGEST)
            fields.append(_run(run) + value)
            rest -= run
        lit = not lit
    bits = "".join(fields)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def _run(length: int) -> str:
    which = next(i for i, size in enumerate(SIZES) if length <= 1 << size)
    return f"1{which:02b}{length - 1:0{SIZES[which]}b}"


FROM, TO = "tag", "image"


class LabelStudioWriter(Writer):
    """label-studio.json, tasks to import, and label-studio.xml, the project's labeling interface."""

    name = "label-studio"
    outputs = ("label-studio.json", "label-studio.xml")

    def write(self, picture: Labeled) -> list[list[Any]]:
        """See `Writer`."""
        regions, strokes = picture.regions, []
        for i in range(len(regions)):
            plane = np.zeros(picture.size, bool)
            x, y, width, height = regions.box[i].tolist()
            plane[y : y + height, x : x + width] = regions.crop(i)
            packed = base64.b64encode(encode_brush(plane)).decode("ascii")
            strokes.append([int(regions.label[i]), packed, picture.scores[i]])
        return strokes

    def finish(self, entries: Entries) -> None:
        """See `Writer`."""
        tasks = (self._task(entry) for entry in entries())
        write_lines(self.target.out / "label-studio.json", _bracketed(listed(tasks)))
        write_text(self.target.out / "label-studio.xml", self._interface())

    def _task(self, entry: Entry) -> dict[str, Any]:
        results = [self._result(entry, number, *stroke) for number, stroke in enumerate(entry.payload)]
        prediction = {"model_version": self.target.model, "score": entry.confidence, "result": results}
        address = f"{self.target.image_prefix}{quote(entry.item.file)}"
        return {"data": {"image": address}, "predictions": [prediction]}

    def _result(self, entry: Entry, number: int, label: int, packed: str, score: float) -> dict[str, Any]:
        name = self.target.labels.classes[label]
        return {
            "id": hashlib.sha256(f"{entry.item.name}/{number}".encode()).hexdigest()[:10],
            "type": "brushlabels",
            "from_name": FROM,
            "to_name": TO,
            "original_width": entry.width,
            "original_height": entry.height,
            "image_rotation": 0,
            "score": score,
            "value": {"format": "rle", "rle": list(base64.b64decode(packed)), "brushlabels": [name]},
        }

    def _interface(self) -> str:
        view = Xml.Element("View")
        Xml.SubElement(view, "Image", name=TO, value="$image", zoom="true")
        labels = Xml.SubElement(view, "BrushLabels", name=FROM, toName=TO)
        things = self.target.labels.things
        for name, (r, g, b) in zip(things, class_colors(things).tolist(), strict=True):
            Xml.SubElement(labels, "Label", value=name, background=f"#{r:02x}{g:02x}{b:02x}")
        Xml.indent(view, "  ")
        return Xml.tostring(view, encoding="unicode") + "\n"


def _bracketed(inner: Iterator[str]) -> Iterator[str]:
    yield "["
    yield from inner
    yield "]\n"
