"""Labeled images, one after the other, from any data set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from denseclip.data.images import read_image
from denseclip.data.masks import MaskFile, MaskSource, to_classes
from denseclip.data.specs import DatasetSpec
from denseclip.errors import UserError


@dataclass(frozen=True)
class Sample:
    """One labeled image.

    image: (H, W, 3) uint8 RGB. mask: (H, W) class indices with the data set's `ignore_index` where nothing is
    counted, uint8 (int32 with more than 255 classes).
    """

    image_id: str
    image: NDArray[Any]
    mask: NDArray[Any]


class SampleSource(Protocol):
    """Where one labeled image comes from; nothing is read yet."""

    @property
    def image_id(self) -> str:
        """What the image is called, unique in its split."""

    @property
    def files(self) -> tuple[Path, ...]:
        """What has to be on the disk."""

    def read(self, spec: DatasetSpec) -> Sample:
        """The image, and its mask in class indices of `spec`; UserError if they cannot be used."""


@dataclass(frozen=True)
class Entry:
    """A labeled image in files."""

    image_id: str
    image: Path
    mask: MaskSource

    @property
    def files(self) -> tuple[Path, ...]:
        """The image, and the mask's file if it has one of its own."""
        return (self.image, self.mask.path) if isinstance(self.mask, MaskFile) else (self.image,)

    def read(self, spec: DatasetSpec) -> Sample:
        """Read one image and its mask.

        Raises UserError, naming the file, if either cannot be read, their sizes differ, or the mask has an id
        that is not declared.
        """
        image = read_image(self.image)
        mask = self._classes(spec, (image.shape[0], image.shape[1]))
        if image.shape[:2] != mask.shape:
            sizes = [f"{array.shape[1]}x{array.shape[0]}" for array in (mask, image)]
            raise UserError(
                f"mask {self.mask} is {sizes[0]} but its image {self.image} is {sizes[1]} "
                "(width x height): give both the same size"
            )
        return Sample(self.image_id, image, mask)

    def _classes(self, spec: DatasetSpec, size: tuple[int, int]) -> NDArray[Any]:
        try:
            ids = self.mask.read(size)
        except FileNotFoundError:
            raise UserError(f"no mask {self.mask} for image {self.image_id}: {spec.fix}") from None
        return to_classes(ids, spec.label_ids, spec.void_ids, self.mask)


class SegmentationDataset:
    """A split: a sequence of `Sample`s that are read when asked for."""

    def __init__(self, spec: DatasetSpec, split: str, entries: Sequence[SampleSource]) -> None:
        """Raises UserError if there is no entry."""
        if not entries:
            raise UserError(
                f"split {split} of {spec.name} has no images: add images, or choose another split"
            )
        self.spec = spec
        self.split = split
        self.entries: tuple[SampleSource, ...] = tuple(entries)

    @classmethod
    def without_images(cls, spec: DatasetSpec, split: str) -> Self:
        """The words of a data set whose images are not at hand."""
        made = cls.__new__(cls)
        made.spec, made.split, made.entries = spec, split, ()
        return made

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """Read one image and its mask; raises UserError if they cannot be used."""
        return self.entries[index].read(self.spec)
