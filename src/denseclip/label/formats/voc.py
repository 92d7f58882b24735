"""Pascal VOC: indexed PNGs, boxes in XML, a list of pictures; and CVAT, the same as a zip."""

import base64
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from denseclip.errors import UserError
from denseclip.io import atomic_path, write_text
from denseclip.label.formats.base import (
    PNG_LEVEL,
    Entries,
    Target,
    Writer,
    below,
    place_image,
    png_bytes,
    save,
    write_lines,
)
from denseclip.label.labelled import Labeled, Labels
from denseclip.segment.paint import voc_palette

BACKGROUND, VOID, MOST = 0, 255, 254  # MOST: ids that a byte has besides these two


class VocWriter(Writer):
    """voc/: SegmentationClass, SegmentationObject, Annotations, JPEGImages, ImageSets/Segmentation, labelmap.txt.

    Class 0 is the background, 255 void; further ids are the classes in order.
    """

    name = "voc"
    outputs = ("voc",)

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        check_names(self.name, target.labels)
        if len(target.labels.things) > MOST:
            raise UserError(
                f"format {self.name} holds {MOST} classes, not {len(target.labels.things)}; give fewer"
            )

    def write(self, picture: Labeled) -> None:
        """See `Writer`."""
        folder, name = self.target.out / "voc", picture.item.name
        for part, ids in (("Class", class_ids(picture, VOID)), ("Object", object_ids(picture, VOID))):
            image = painted(ids)
            save(image, below(folder / f"Segmentation{part}", name, ".png"), compress_level=PNG_LEVEL)
        file = Path(picture.item.file).name
        if self.target.link_images:
            file = place_image(picture, folder / "JPEGImages").name
        write_text(below(folder / "Annotations", name, ".xml"), _boxes(picture, file))

    def finish(self, entries: Entries) -> None:
        """See `Writer`."""
        folder = self.target.out / "voc"
        lists = folder / "ImageSets" / "Segmentation"
        write_lines(lists / "train.txt", (f"{entry.item.name}\n" for entry in entries()))
        write_text(folder / "labelmap.txt", labelmap(self.target.labels))


def check_names(form: str, labels: Labels) -> None:
    """UserError if a class name cannot stand in a label map."""
    wrong = [name for name in labels.things if any(c in name for c in ":#\r\n")]
    if wrong:
        raise UserError(
            f"class name {wrong[0]!r} cannot be in format {form}, which gives : and # a meaning; rename it"
        )


def class_ids(picture: Labeled, void: int) -> NDArray[np.integer]:
    """VOC's class of each pixel, (H, W): 0 the background, classes from 1 on, `void` where there is no label."""
    outside = picture.mask == picture.labels.void
    return np.where(outside, void, picture.labels.numbers[np.where(outside, 0, picture.mask)])


def object_ids(picture: Labeled, void: int) -> NDArray[np.integer]:
    """A number for each region, the largest first, (H, W); one for each class if there are more than `MOST`."""
    regions = picture.regions
    if len(regions) <= MOST:
        numbers = np.empty(len(regions), np.int64)
        numbers[np.argsort(-regions.area, kind="stable")] = np.arange(1, len(regions) + 1)
    else:
        numbers = np.unique(regions.label, return_inverse=True)[1].ravel() + 1
    ids = regions.paint(numbers)
    return np.where(picture.mask == picture.labels.void, void, ids)


def painted(ids: NDArray[np.integer]) -> Image.Image:
    """Ids up to 255 in VOC's colors."""
    image = Image.fromarray(ids.astype(np.uint8), mode="P")
    image.putpalette(voc_palette(256).tobytes())
    return image


def labelmap(labels: Labels) -> str:
    """Lines "name:r,g,b:parts:actions", the background first."""
    names = ("background", *labels.things)
    colors = voc_palette(len(names)).tolist()
    lines = [f"{name}:{r},{g},{b}::\n" for name, (r, g, b) in zip(names, colors, strict=True)]
    return "# label:color_rgb:parts:actions\n" + "".join(lines)


def _boxes(picture: Labeled, file: str) -> str:
    """The Annotations file of a picture in `file`: a box per region, corners counted from 1 and included."""
    height, width = picture.size
    root = Xml.Element("annotation")
    _leaf(root, "filename", file)
    size = Xml.SubElement(root, "size")
    for key, value in (("width", width), ("height", height), ("depth", 3)):
        _leaf(size, key, value)
    _leaf(root, "segmented", 1)
    regions = picture.regions
    for label, (x, y, w, h) in zip(regions.label.tolist(), regions.box.tolist(), strict=True):
        thing = Xml.SubElement(root, "object")
        _leaf(thing, "name", picture.labels.classes[label])
        box = Xml.SubElement(thing, "bndbox")
        for key, value in (("xmin", x + 1), ("ymin", y + 1), ("xmax", x + w), ("ymax", y + h)):
            _leaf(box, key, value)
    Xml.indent(root, " ")
    return Xml.tostring(root, encoding="unicode") + "\n"


def _leaf(parent: Xml.Element, key: str, value: Any) -> None:  # noqa: ANN401
    Xml.SubElement(parent, key).text = str(value)


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
