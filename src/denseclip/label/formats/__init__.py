"""Writers, one per format that other tools read."""

from denseclip.errors import UserError, choose
from denseclip.label.formats.base import Target, Writer
from denseclip.label.formats.coco_json import CocoPolygonsWriter, CocoWriter
from denseclip.label.formats.label_studio import LabelStudioWriter
from denseclip.label.formats.png import PngWriter
from denseclip.label.formats.voc import CvatWriter, VocWriter
from denseclip.label.formats.yolo import YoloWriter

WRITERS: dict[str, type[Writer]] = {
    writer.name: writer
    for writer in (
        PngWriter,
        CocoWriter,
        CocoPolygonsWriter,
        YoloWriter,
        VocWriter,
        CvatWriter,
        LabelStudioWriter,
    )
}


def parse_formats(text: str) -> tuple[str, ...]:
    """Read "png,coco"; raises UserError for an unknown format or none."""
    names = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    unknown = [name for name in names if name not in WRITERS]
    if unknown or not names:
        what = f"format {unknown[0]!r} is unknown" if unknown else "no format is given"
        raise UserError(f"{what}; {choose(unknown[0] if unknown else '', WRITERS)}")
    return names


def make_writers(names: tuple[str, ...], target: Target) -> list[Writer]:
    """The writers of formats by name; UserError where one cannot hold what is found."""
    wrong = [name for name in names if not (target.labels.masks or WRITERS[name].boxes)]
    if wrong:
        able = ", ".join(name for name, writer in WRITERS.items() if writer.boxes)
        raise UserError(
            f"format {wrong[0]} needs masks, and this detector finds boxes only; choose from {able}"
        )
    return [WRITERS[name](target) for name in names]
