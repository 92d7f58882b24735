"""CVAT's "Segmentation mask 1.1": a zip to upload as annotations."""

import base64
import zipfile
from typing import Any

from PIL import Image

from denseclip.io import atomic_path
from denseclip.label.formats.base import Entries, Target, Writer, png_bytes
from denseclip.label.formats.voc import (
    BACKGROUND,
    MOST,
    check_names,
    class_ids,
    labelmap,
    object_ids,
    painted,
)
from denseclip.label.labelled import Labeled
from denseclip.segment.palette import voc_palette

EPOCH = (1980, 1, 1, 0, 0, 0)


class CvatWriter(Writer):
    """cvat.zip: labelmap.txt, SegmentationClass, SegmentationObject, ImageSets. Void becomes background."""

    name = "cvat"
    outputs = ("cvat.zip",)

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        check_names(self.name, target.labels)

    def write(self, picture: Labeled) -> list[str]:
        """See `Writer`."""
        ids = class_ids(picture, BACKGROUND)
        many = len(self.target.labels.things) > MOST
        colors = voc_palette(len(self.target.labels.things) + 1) if many else None
        classes = painted(ids) if colors is None else Image.fromarray(colors[ids])
        objects = painted(object_ids(picture, BACKGROUND))
        return [base64.b64encode(png_bytes(one)).decode("ascii") for one in (classes, objects)]

    def finish(self, entries: Entries) -> None:
        """See `Writer`."""
        with (
            atomic_path(self.target.out / "cvat.zip") as temporary,
            zipfile.ZipFile(temporary, "w") as archive,
        ):
            _add(archive, "labelmap.txt", labelmap(self.target.labels))
            names = "".join(f"{entry.item.name}\n" for entry in entries())
            _add(archive, "ImageSets/Segmentation/default.txt", names)
            for entry in entries():
                for part, content in zip(("Class", "Object"), entry.payload, strict=True):
                    _add(archive, f"Segmentation{part}/{entry.item.name}.png", base64.b64decode(content))


def _add(archive: zipfile.ZipFile, name: str, content: Any) -> None:  # noqa: ANN401
    info = zipfile.ZipInfo(name, EPOCH)
    info.external_attr = 0o644 << 16
    archive.writestr(info, content)
