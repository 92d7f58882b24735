"""Labelled images, one after the other, from any data set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from denseclip.data.images import read_image
from denseclip.data.masks import MaskSource, to_classes
from denseclip.data.specs import DatasetSpec
from denseclip.errors import UserError


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    image: (H, W, 3) uint8 RGB. mask: (H, W) class indices with the data set's `ignore_index` where nothing is
    counted, uint8 (int32 with more than 255 classes).
    """

    image_id: str
    image: NDArray[Any]
    mask: NDArray[Any]


@dataclass(frozen=True)
class Entry:
    """Where one labelled image is; nothing is read yet."""

    image_id: str
    image: Path
    mask: MaskSource


class SegmentationDataset:
    """A split: a sequence of `Sample`s that are read when asked for."""

    def __init__(self, spec: DatasetSpec, split: str, entries: Sequence[Entry]) -> None:
        """Raises UserError if there is no entry."""
        if not entries:
            raise UserError(
                f"split {split} of {spec.name} has no images: add images, or choose another split"
            )
        self.spec = spec
        self.split = split
        self.entries = tuple(entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """Read one image and its mask.

        Raises UserError, naming the file, if either cannot be read, their sizes differ, or the mask has an id
        that is not declared.
        """
        entry = self.entries[index]
        image, mask = read_image(entry.image), self._mask(entry)
        if image.shape[:2] != mask.shape:
            sizes = [f"{array.shape[1]}x{array.shape[0]}" for array in (mask, image)]
            raise UserError(
                f"mask {entry.mask} is {sizes[0]} but its image {entry.image} is {sizes[1]} "
                "(width x height): give both the same size"
            )
        return Sample(entry.image_id, image, mask)

    def _mask(self, entry: Entry) -> NDArray[Any]:
        try:
            ids = entry.mask.read()
        except FileNotFoundError:
            raise UserError(f"no mask {entry.mask} for image {entry.image_id}: {self.spec.fix}") from None
        return to_classes(ids, self.spec.label_ids, self.spec.void_ids, entry.mask)
