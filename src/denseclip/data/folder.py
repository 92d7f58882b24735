"""A plain folder of pictures as a data set without annotation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from denseclip.data.datasets import DatasetSpec, Sample, SegmentationDataset, colors
from denseclip.data.images import SUFFIXES, read_image, unread_in, unread_line, walk
from denseclip.errors import UserError
from denseclip.outputs import is_output
from denseclip.text.prompts import BACKGROUND


@dataclass(frozen=True)
class Picture:
    """A picture in a file; nothing is known of its pixels."""

    image_id: str
    image: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """The picture."""
        return (self.image,)

    def read(self, spec: DatasetSpec) -> Sample:
        """The picture under a mask that is ignored everywhere; UserError if it cannot be read."""
        image = read_image(self.image)
        dtype = np.uint8 if spec.ignore_index <= 255 else np.int32
        return Sample(self.image_id, image, np.full(image.shape[:2], spec.ignore_index, dtype))


def open_folder(
    folder: Path, classes: Sequence[str], prompts: Sequence[Sequence[str]], *, background: bool = False
) -> SegmentationDataset:
    """All pictures below a folder, in the order of their names, and the classes that are looked for in them.

    background: class 0 is what is none of them.

    Raises UserError if there is no such folder or no picture in it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give one with pictures")
    paths = [path for path in walk(folder, SUFFIXES) if not is_output(path)]
    if not paths:
        others = unread_line(unread_in([folder]))
        fix = f"put some there ({', '.join(SUFFIXES)})" + (f"; {others}" if others else "")
        raise UserError(f"no pictures in {folder}; {fix}")
    first = (BACKGROUND,) if background else ()
    names = (*first, *classes)
    spec = DatasetSpec(
        folder.resolve().name,
        classes=names,
        prompts=(*((name,) for name in first), *(tuple(words) for words in prompts)),
        palette=colors(len(classes) + 1)[1 - len(first) :],
        label_ids=tuple(range(len(names))),
        void_ids=(),
        background=0 if background else None,
    )
    return SegmentationDataset(
        spec, "all", [Picture(path.relative_to(folder).as_posix(), path) for path in paths]
    )
