"""A COCO file's images as data for segmentation and for detection."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denseclip.data.coco import Annotation, Box, CocoImage, MaskError, box_of, paint, pixels, read_coco_file
from denseclip.data.datasets import Entry, ignore_index
from denseclip.data.images import read_image
from denseclip.data.instances import InstanceSample, Rle, Targets, need_pycocotools
from denseclip.errors import UserError


@dataclass(frozen=True)
class CocoMask:
    """The annotations of one image, painted when asked for.

    first: the index of the first category. rest: what pixels without any annotation become. void: what those become
    of which only a box is known.
    """

    image: CocoImage
    first: int
    rest: int
    void: int

    def __str__(self) -> str:
        return f"of {self.image.file_name} in {self.image.file}"

    def read(self, size: tuple[int, int]) -> NDArray[Any]:
        """Class indices, (H, W) int32: small masks on large ones, crowds below all, boxes without a mask below these.

        Raises UserError if the image is not of its declared size, and naming an annotation whose mask does not fit.
        """
        self.image.check_size(size)
        ids = np.full(size, self.rest, np.int32)
        masks = []
        for annotation in self.image.annotations:
            runs = draw(annotation, size, self.image.file)
            if runs is not None:
                masks.append((not annotation.crowd, -pixels(runs), annotation.label, runs))
            elif annotation.box is not None and _without_area(annotation.box, size) is None:
                x0, y0, x1, y1 = clipped(annotation.box, size)
                ids[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = self.void
        for _, _, label, runs in sorted(masks, key=lambda mask: mask[:2]):
            paint(ids, runs, self.first + label)
        return ids


def read_coco(file: Path, folder: Path, background: str | None) -> tuple[list[str], list[Entry], int]:
    """Class names, entries and the void id of a COCO file as data for segmentation.

    Classes are the categories by rising id; with `background` that class comes first and takes every pixel
    without an annotation, which otherwise are void. Raises UserError as `read_coco_file`, and without any mask.
    """
    need_pycocotools()
    coco = read_coco_file(file, folder)
    coco.require_masks()
    names = [*([background] if background else []), *coco.names]
    void = ignore_index(len(names))
    rest = 0 if background else void
    entries = [
        Entry(image.image_id, image.path, CocoMask(image, int(bool(background)), rest, void))
        for image in coco.images
    ]
    return names, entries, void


@dataclass(frozen=True)
class CocoInstances:
    """One image of a COCO file with its boxes and masks. lenient: see `read_instances`."""

    coco: CocoImage
    lenient: bool = False

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) as the file declares it."""
        return self.coco.declared

    @property
    def image_id(self) -> str:
        """See `CocoImage`."""
        return self.coco.image_id

    @property
    def image(self) -> Path:
        """The picture's file."""
        return self.coco.path

    @property
    def files(self) -> tuple[Path, ...]:
        """See `InstanceSource`."""
        return (self.image,)

    @property
    def learnable(self) -> bool:
        """Whether there is something that is no crowd."""
        return any(not annotation.crowd for annotation in self._kept())

    def read(self) -> InstanceSample:
        """The image and its things; UserError if the image is missing or damaged, or of another size."""
        image = read_image(self.coco.path)
        size = image.shape[0], image.shape[1]
        self.coco.check_size(size)
        return InstanceSample(self.image_id, self.coco.number, image, self.truth(size))

    def truth(self, size: tuple[int, int]) -> Targets:
        """Its things in an image of a size (H, W); UserError naming an annotation that cannot be used."""
        found = []
        for annotation in self._kept():
            runs = draw(annotation, size, self.coco.file)
            box = annotation.box or box_of(runs)
            area = annotation.area
            if area is None:
                area = float(pixels(runs)) if runs is not None else box[2] * box[3]
            _need_area(annotation, box, size, self.coco.file)
            found.append((clipped(box, size), annotation.label, area, annotation.crowd, runs))
        return Targets.of(found)

    def check_boxes(self) -> None:
        """UserError for a box without area or outside of its image, and for what has neither box nor mask."""
        for annotation in self._kept():
            if annotation.box is None and annotation.segmentation is None:
                raise UserError(
                    f"{self.coco.file}: {annotation.name} has neither bbox nor segmentation: remove it"
                )
            if annotation.box is not None:
                _need_area(annotation, annotation.box, self.coco.declared, self.coco.file)

    def _kept(self) -> list[Annotation]:
        every = self.coco.annotations
        if not self.lenient:
            return list(every)
        size = self.coco.declared
        return [each for each in every if each.box is None or not _without_area(each.box, size)]


def read_instances(
    file: Path, folder: Path, *, lenient: bool = False
) -> tuple[Sequence[str], Sequence[int], list[CocoInstances]]:
    """Class names, their ids in the file, and the images of a COCO file as data for detection.

    lenient: boxes without area are left out, which COCO itself has; else they are errors.
    Raises UserError, naming the annotation, for what cannot be used; the pictures themselves are not looked at.
    """
    coco = read_coco_file(file, folder)
    entries = [CocoInstances(image, lenient) for image in coco.images]
    for entry in entries:
        entry.check_boxes()
    return coco.names, coco.ids, entries


def draw(annotation: Annotation, size: tuple[int, int], file: Path) -> Rle | None:
    """The mask of an annotation in an image of a size (H, W), None if it has none; UserError if it does not fit."""
    if annotation.segmentation is None:
        return None
    try:
        return annotation.segmentation.draw(*size)
    except MaskError as fault:
        raise UserError(f"{file}: {annotation.name}: {fault}: repair or remove it") from None


def clipped(box: Box, size: tuple[int, int]) -> Box:
    """x, y, width, height -> x0, y0, x1, y1 within an image of a size (H, W)."""
    x, y, width, height = box
    return max(0.0, x), max(0.0, y), min(float(size[1]), x + width), min(float(size[0]), y + height)


def _without_area(box: Box, size: tuple[int, int] | None) -> str | None:
    """Why a box covers nothing of its image (H, W; None if that is not known yet); None if it does."""
    if box[2] <= 0 or box[3] <= 0:
        return "a box without area"
    x0, y0, x1, y1 = clipped(box, size or (2**31, 2**31))
    return None if x0 < x1 and y0 < y1 else "a box outside of its image"


def _need_area(annotation: Annotation, box: Box, size: tuple[int, int] | None, file: Path) -> None:
    reason = _without_area(box, size)
    if reason is not None:
        raise UserError(f"{file}: {annotation.name} has {reason}, {list(box)}: correct or remove it")
