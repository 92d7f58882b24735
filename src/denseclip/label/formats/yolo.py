"""YOLO segmentation: a text file per picture, a polygon per line."""

import json

from denseclip.io import write_text
from denseclip.label.formats.base import Entries, Writer, below, place_image, write_lines
from denseclip.label.labelled import Labeled
from denseclip.segment.regions import through_centers

INSIDE = 0.25  # of a pixel: its center whether a reader rounds or cuts off


class YoloWriter(Writer):
    """yolo/labels/NAME.txt, yolo/images/NAME.EXT and yolo/data.yaml.

    Lines are "class x y x y ...", x and y as shares of width and height. Holes are joined to the outline by slits,
    parts by lines.
    """

    name = "yolo"
    boxes = True
    outputs = ("yolo",)

    def write(self, picture: Labeled) -> None:
        """See `Writer`."""
        folder, regions = self.target.out / "yolo", picture.regions
        height, width = picture.size
        lines = []
        for i in range(len(regions)):
            points = (through_centers(regions.crop(i)) + regions.box[i, :2] + INSIDE) / (width, height)
            path = " ".join(f"{value:.7g}" for value in points.ravel())
            lines.append(f"{self.target.labels.numbers[regions.label[i]] - 1} {path}\n")
        write_lines(below(folder / "labels", picture.item.name, ".txt"), lines)
        if self.target.link_images:
            place_image(picture, folder / "images")

    def finish(self, entries: Entries) -> None:
        """See `Writer`."""
        names = [
            f"  {number}: {json.dumps(name, ensure_ascii=False)}\n"
            for number, name in enumerate(self.target.labels.things)
        ]
        head = "train: images\nval: images\nnames:\n"  # readers look beside the file
        write_text(self.target.out / "yolo" / "data.yaml", head + "".join(names))
