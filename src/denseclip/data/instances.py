"""Images with boxes and masks of the things in them, whichever data set they are of, and their augmentation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from denseclip.data.transforms import Image, ResizeRule, Size, disturb_colors
from denseclip.errors import UserError, need

Rle = dict[str, Any]  # COCO's compressed run lengths: {"size": [H, W], "counts": bytes}


@dataclass(frozen=True)
class Targets:
    """N things. boxes: (N, 4) float32, x0, y0, x1, y1 in pixels, with area and within the image.

    labels: (N,) int64, class indices. areas: (N,) float64, in pixels. crowd: (N,) bool, not counted either way, not
    learned from. runs: masks, None where the data set has none.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    runs: tuple[Rle | None, ...]

    @classmethod
    def of(cls, found: Sequence[tuple[Sequence[float], int, float, bool, Rle | None]]) -> Self:
        """From box, class, area, crowd and mask of each."""
        boxes, labels, areas, crowd, runs = zip(*found, strict=True) if found else ((), (), (), (), ())
        return cls(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(labels, np.int64),
            np.array(areas, np.float64),
            np.array(crowd, bool),
            tuple(runs),
        )

    def learnable(self) -> "Targets":
        """Without crowds."""
        kept = np.flatnonzero(~self.crowd)
        runs = tuple(self.runs[i] for i in kept)
        return Targets(self.boxes[kept], self.labels[kept], self.areas[kept], self.crowd[kept], runs)


@dataclass(frozen=True)
class InstanceSample:
    """One image. number: its id in COCO files. image: (H, W, 3) uint8 RGB."""

    image_id: str
    number: int
    image: NDArray[np.uint8]
    truth: Targets


class InstanceSource(Protocol):
    """Where one image comes from; nothing is read yet."""

    @property
    def image_id(self) -> str:
        """What the image is called, unique in its split."""

    @property
    def files(self) -> tuple[Path, ...]:
        """What has to be on the disk."""

    def read(self) -> InstanceSample:
        """The image and what is in it; UserError if they cannot be used."""


class InstanceDataset:
    """A split of a data set for detection.

    classes: names by class index. categories: by class index, the ids of COCO files.
    """

    def __init__(
        self,
        name: str,
        split: str,
        classes: Sequence[str],
        categories: Sequence[int],
        entries: Sequence[InstanceSource],
    ) -> None:
        assert len(classes) == len(categories)
        self.name, self.split = name, split
        self.classes, self.categories = tuple(classes), tuple(categories)
        self.entries = tuple(entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[InstanceSample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> InstanceSample:
        """Read one image; raises UserError if it cannot be used."""
        return self.entries[index].read()

    def shape(self, index: int) -> float:
        """Width over height of an image as its annotation says, 1 where it does not; nothing is read."""
        size = getattr(self.entries[index], "size", None)
        return 1.0 if size is None else size[1] / size[0]

    def with_classes(self, classes: Sequence[str]) -> "InstanceDataset":
        """The same images under another list of classes, by name: in another order, and more that do not occur.

        A class that the data set does not declare gets an id that is free. Raises UserError for one of its own that
        is not in `classes`.
        """
        unknown = [name for name in self.classes if name not in classes]
        if unknown:
            more = f" and {len(unknown) - 1} others" if len(unknown) > 1 else ""
            raise UserError(
                f"{self.name} has the class {unknown[0]!r}{more}, which is none of {', '.join(classes[:3])}, ...: "
                "take data of the same classes"
            )
        if self.classes == tuple(classes):
            return self
        free = iter(k for k in range(1, 2 * len(classes) + 1) if k not in self.categories)
        ids = dict(zip(self.classes, self.categories, strict=True))
        categories = [ids[name] if name in ids else next(free) for name in classes]
        order = np.array([list(classes).index(name) for name in self.classes], np.int64)
        entries = [_Renumbered(entry, order) for entry in self.entries]
        return InstanceDataset(self.name, self.split, classes, categories, entries)

    def first(self, images: int | None) -> "InstanceDataset":
        """Only the first images; all if None."""
        return InstanceDataset(self.name, self.split, self.classes, self.categories, self.entries[:images])


@dataclass(frozen=True)
class _Renumbered:
    """An image whose class k is called order[k]."""

    entry: InstanceSource
    order: NDArray[np.int64]

    @property
    def image_id(self) -> str:
        return self.entry.image_id

    @property
    def files(self) -> tuple[Path, ...]:
        return self.entry.files

    @property
    def size(self) -> tuple[int, int] | None:
        return getattr(self.entry, "size", None)

    def read(self) -> InstanceSample:
        sample = self.entry.read()
        return replace(sample, truth=replace(sample.truth, labels=self.order[sample.truth.labels]))


def decode(runs: Rle) -> NDArray[np.uint8]:
    """Run lengths -> (H, W), 0 or 1."""
    from pycocotools import mask

    return np.asarray(mask.decode(runs))


def encode(mask: NDArray[Any]) -> Rle:
    """(H, W) of 0 and 1 or bool -> run lengths."""
    from pycocotools import mask as coco

    return coco.encode(np.asfortranarray(mask, np.uint8))


def need_pycocotools() -> None:
    """UserError if it is not installed."""
    need("pycocotools", "detection")


THINNEST = 1.0  # pixels; what a crop leaves less of is gone


@dataclass(frozen=True)
class BoxView:
    """What is left of an image and its things.

    image: (h, w, 3) uint8 RGB. boxes: (N, 4) float32, x0, y0, x1, y1 in its pixels. labels: (N,) int64.
    masks: (N, h, w) uint8, 0 or 1; None if they are not wanted.
    """

    image: Image
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.uint8] | None


@dataclass(frozen=True)
class BoxAugmentation:
    """What happens to a training image, in this order.

    resize: the size at ratio 1. ratio: smallest and largest factor on it. crop: (height, width) of a random window,
    None for none; images smaller than it stay as they are. flip: probability of mirroring. colors: brightness,
    contrast, saturation and hue are disturbed. masks: whether masks go with the boxes.
    """

    resize: ResizeRule
    ratio: tuple[float, float] = (1.0, 1.0)
    crop: Size | None = None
    flip: float = 0.5
    colors: bool = False
    masks: bool = False

    def __call__(self, sample: InstanceSample, rng: np.random.Generator) -> BoxView:
        """Crowds are left out. Raises UserError if masks are wanted and a thing has none."""
        truth = sample.truth.learnable()
        view = BoxView(sample.image, truth.boxes, truth.labels, self._masks(sample) if self.masks else None)
        view = resized(view, self._target(sample.image.shape[:2], rng))
        if self.crop is not None:
            view = cropped(view, self._window(view.image.shape[:2], self.crop, rng))
        if rng.random() < self.flip:
            view = mirrored(view)
        image = disturb_colors(view.image, rng) if self.colors else view.image
        return BoxView(np.ascontiguousarray(image), view.boxes, view.labels, view.masks)

    def _target(self, size: Size, rng: np.random.Generator) -> Size:
        ratio = float(rng.uniform(*self.ratio))
        height, width = self.resize.target(*size)
        return max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5))

    @staticmethod
    def _window(size: Size, crop: Size, rng: np.random.Generator) -> tuple[slice, slice]:
        starts = [int(rng.integers(max(have - want, 0) + 1)) for have, want in zip(size, crop, strict=True)]
        rows, columns = (slice(start, start + want) for start, want in zip(starts, crop, strict=True))
        return rows, columns

    @staticmethod
    def _masks(sample: InstanceSample) -> NDArray[np.uint8]:
        masks = []
        for runs in sample.truth.learnable().runs:
            if runs is None:
                raise UserError(
                    f"a thing in {sample.image_id} has no mask; give its segmentation, or train a retinanet"
                )
            masks.append(decode(runs))
        height, width = sample.image.shape[:2]
        return np.stack(masks) if masks else np.zeros((0, height, width), np.uint8)


def resized(view: BoxView, size: Size) -> BoxView:
    """At (height, width): the image bilinear, the masks nearest, by OpenCV; boxes are scaled along each axis."""
    before = view.image.shape[:2]
    if size == before:
        return view
    height, width = size
    image = np.asarray(cv2.resize(view.image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    scale = np.array([width / before[1], height / before[0]] * 2, np.float32)
    masks = view.masks
    if masks is not None:
        one = [cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST) for mask in masks]
        masks = np.stack(one).astype(np.uint8) if one else np.zeros((0, height, width), np.uint8)
    return BoxView(image, view.boxes * scale, view.labels, masks)


def cropped(view: BoxView, window: tuple[slice, slice]) -> BoxView:
    """What a window shows; boxes are cut, those of which nothing is left are gone."""
    rows, columns = window
    image = view.image[rows, columns]
    shift = np.array([columns.start, rows.start] * 2, np.float32)
    limit = np.array([image.shape[1], image.shape[0]] * 2, np.float32)
    boxes = np.clip(view.boxes - shift, 0, limit)
    kept = ((boxes[:, 2:] - boxes[:, :2]) >= THINNEST).all(1)
    masks = None if view.masks is None else view.masks[kept][:, rows, columns]
    if masks is not None:  # the box may be cut where the thing itself is not
        full = masks.any(axis=(1, 2))
        masks, kept[kept] = masks[full], full
    return BoxView(image, boxes[kept], view.labels[kept], masks)


def mirrored(view: BoxView) -> BoxView:
    """Left becomes right."""
    width = np.float32(view.image.shape[1])
    boxes = np.stack(
        [width - view.boxes[:, 2], view.boxes[:, 1], width - view.boxes[:, 0], view.boxes[:, 3]], 1
    )
    masks = None if view.masks is None else np.ascontiguousarray(view.masks[..., ::-1])
    return BoxView(view.image[:, ::-1], boxes, view.labels, masks)
