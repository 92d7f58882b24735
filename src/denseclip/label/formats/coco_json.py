"""COCO JSON: one annotation per region, as run lengths or as polygons."""

import json
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from denseclip.errors import need
from denseclip.label.formats.base import Entries, Target, Writer, listed, write_lines
from denseclip.label.labelled import Labeled
from denseclip.segment.regions import along_edges


class _Coco(Writer):
    """FILE.json. Category ids are 1, 2, ... for the classes in order, without the background."""

    boxes = True

    @abstractmethod
    def shape(self, picture: Labeled, index: int) -> Any:  # noqa: ANN401
        """The segmentation of one region."""

    def write(self, picture: Labeled) -> list[list[Any]]:
        """See `Writer`."""
        regions, scored = picture.regions, self.target.rules.confidence is not None
        return [
            [
                int(self.target.labels.numbers[regions.label[i]]),
                int(regions.area[i]),
                regions.box[i].tolist(),
                self.shape(picture, i),
                *([picture.scores[i]] if scored else []),
            ]
            for i in range(len(regions))
        ]

    def finish(self, entries: Entries) -> None:
        """See `Writer`."""
        write_lines(self.target.out / self.outputs[0], self._lines(entries))

    def _lines(self, entries: Entries) -> Iterator[str]:
        info = {"description": "made by denseclip label", "model": self.target.model}
        yield f'{{"info": {json.dumps(info, ensure_ascii=False)},\n"images": ['
        yield from listed(
            {"id": one.number, "file_name": one.item.file, "width": one.width, "height": one.height}
            for one in entries()
        )
        yield '],\n"annotations": ['
        yield from listed(self._annotations(entries))
        yield '],\n"categories": ['
        yield from listed(
            {"id": number, "name": name} for number, name in enumerate(self.target.labels.things, start=1)
        )
        yield "]}\n"

    def _annotations(self, entries: Entries) -> Iterator[dict[str, Any]]:
        number = 0
        for entry in entries():
            for category, area, box, shape, *score in entry.payload:
                number += 1
                segmentation = (
                    {"size": [entry.height, entry.width], "counts": shape}
                    if isinstance(shape, str)
                    else shape
                )
                yield {
                    "id": number,
                    "image_id": entry.number,
                    "category_id": category,
                    "segmentation": segmentation,
                    "area": area,
                    "bbox": box,
                    "iscrowd": 0,
                } | ({"score": score[0]} if score else {})


class CocoWriter(_Coco):
    """coco.json with compressed run lengths."""

    name = "coco"
    outputs = ("coco.json",)

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        need("pycocotools", "format coco")

    def shape(self, picture: Labeled, index: int) -> str:
        """Compressed counts."""
        from pycocotools import mask

        height, width = picture.size
        runs = {"size": [height, width], "counts": picture.regions.counts(index)}
        return mask.frPyObjects(runs, height, width)["counts"].decode("ascii")


class CocoPolygonsWriter(_Coco):
    """coco-polygons.json: a polygon per connected part of a region, exact to the pixel; holes are joined by slits."""

    name = "coco-polygons"
    outputs = ("coco-polygons.json",)

    def shape(self, picture: Labeled, index: int) -> list[list[int]]:
        """Polygons along pixel edges."""
        paths, corner = along_edges(picture.regions.crop(index)), picture.regions.box[index, :2]
        return [(points + corner).ravel().tolist() for points in paths]
