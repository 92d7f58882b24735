"""Indexed PNGs: pixel values are class ids."""

import json

import numpy as np
from PIL import Image

from denseclip.io import write_text
from denseclip.label.formats.base import PNG_LEVEL, Entries, Writer, below, save
from denseclip.label.labelled import Labeled
from denseclip.segment import paint


class PngWriter(Writer):
    """masks/NAME.png, 8 bits with a palette (16 bits of gray from 256 classes on), and classes.json {id: name}."""

    name = "png"
    outputs = ("masks", "classes.json")

    def write(self, picture: Labeled) -> None:
        """See `Writer`."""
        path = below(self.target.out / "masks", picture.item.name, ".png")
        labels = self.target.labels
        if labels.void == 255:
            image = paint.indexed(picture.mask, picture.result.palette, labels.void)
        else:
            image = Image.fromarray(picture.mask.astype(np.uint16))
        save(image, path, compress_level=PNG_LEVEL)

    def finish(self, entries: Entries) -> None:
        """See `Writer`."""
        names = dict(enumerate(self.target.labels.classes))
        write_text(self.target.out / "classes.json", json.dumps(names, indent=1, ensure_ascii=False) + "\n")
