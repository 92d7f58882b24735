"""Training-time augmentation of images with boxes: scale, crop, flip, colours (denseclip section 5)."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from denseclip.data.augment import Image, Size, disturb_colours
from denseclip.data.things import ThingsSample, decode
from denseclip.data.transforms import ResizeRule
from denseclip.errors import UserError

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
    None for none; images smaller than it stay as they are. flip: probability of mirroring. colours: brightness,
    contrast, saturation and hue are disturbed. masks: whether masks go with the boxes.
    """

    resize: ResizeRule
    ratio: tuple[float, float] = (1.0, 1.0)
    crop: Size | None = None
    flip: float = 0.5
    colours: bool = False
    masks: bool = False

    def __call__(self, sample: ThingsSample, rng: np.random.Generator) -> BoxView:
        """Crowds are left out. Raises UserError if masks are wanted and a thing has none."""
        truth = sample.truth.learnable()
        view = BoxView(sample.image, truth.boxes, truth.labels, self._masks(sample) if self.masks else None)
        view = resized(view, self._target(sample.image.shape[:2], rng))
        if self.crop is not None:
            view = cropped(view, self._window(view.image.shape[:2], self.crop, rng))
        if rng.random() < self.flip:
            view = mirrored(view)
        image = disturb_colours(view.image, rng) if self.colours else view.image
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
    def _masks(sample: ThingsSample) -> NDArray[np.uint8]:
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
