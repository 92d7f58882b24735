"""Training-time augmentation: scale, crop, flip, colours (maskclip section d.3, denseclip section 4.1)."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from denseclip.data.transforms import ResizeRule

Image = NDArray[np.uint8]
Labels = NDArray[np.integer]
Size = tuple[int, int]

REDRAWS = 10


@dataclass(frozen=True)
class View:
    """What is left of an image and its labels, and where it came from.

    image: (h, w, 3) uint8 RGB; labels: (h, w); neither larger than the crop. frame: (height, width) to which the
    whole image was resized; top, left: of the crop in it; mirrored: flipped after that.
    """

    image: Image
    labels: Labels
    frame: Size
    top: int
    left: int
    mirrored: bool


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image, in this order.

    resize: the size at ratio 1. ratio: smallest and largest factor on it. crop: (height, width) of the network's
    input. cat_max_ratio: a crop is redrawn, up to 10 times, while one label covers this share of it or more.
    flip: probability of mirroring. colours: brightness, contrast, saturation and hue are disturbed.
    """

    resize: ResizeRule
    ratio: tuple[float, float] = (0.5, 2.0)
    crop: Size = (512, 512)
    cat_max_ratio: float = 0.75
    flip: float = 0.5
    colours: bool = True

    def __call__(self, image: Image, labels: Labels, ignore: int, rng: np.random.Generator) -> View:
        """(H, W, 3) uint8 RGB and (H, W) labels -> a view at most `crop` large, not padded; see `pad`."""
        frame = self._target(image.shape[:2], rng)
        image, labels = rescale(image, labels, frame)
        rows, columns = self._window(labels, ignore, rng)
        image, labels = image[rows, columns], labels[rows, columns]
        mirrored = bool(rng.random() < self.flip)
        if mirrored:
            image, labels = image[:, ::-1], labels[:, ::-1]
        if self.colours:
            image = disturb_colours(image, rng)
        made = np.ascontiguousarray(image), np.ascontiguousarray(labels)
        return View(*made, frame, rows.start, columns.start, mirrored)

    def _target(self, size: Size, rng: np.random.Generator) -> Size:
        ratio = float(rng.uniform(*self.ratio))
        if (
            self.resize.kind == "long-short"
        ):  # the published code truncates the pair, then fits the image into it
            rule = ResizeRule("long-short", tuple(max(1, int(side * ratio)) for side in self.resize.size))
            return rule.target(*size)
        height, width = self.resize.target(*size)
        return max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5))

    def _window(self, labels: Labels, ignore: int, rng: np.random.Generator) -> tuple[slice, slice]:
        window = self._draw(labels.shape, rng)
        if self.cat_max_ratio >= 1:
            return window
        for _ in range(REDRAWS):
            found, counts = np.unique(labels[window], return_counts=True)
            counts = counts[found != ignore]
            if len(counts) > 1 and counts.max() / counts.sum() < self.cat_max_ratio:
                break
            window = self._draw(labels.shape, rng)
        return window

    def _draw(self, size: tuple[int, ...], rng: np.random.Generator) -> tuple[slice, slice]:
        tops = [
            int(rng.integers(max(have - want, 0) + 1)) for have, want in zip(size, self.crop, strict=True)
        ]
        rows, columns = (slice(top, top + want) for top, want in zip(tops, self.crop, strict=True))
        return rows, columns


def rescale(image: Image, labels: Labels, size: Size) -> tuple[Image, Labels]:
    """Both at (height, width): the image bilinear, the labels nearest, by OpenCV."""
    if size == image.shape[:2]:
        return image, labels
    height, width = size
    return (
        np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8),
        np.asarray(cv2.resize(labels.astype(np.int32), (width, height), interpolation=cv2.INTER_NEAREST)),
    )


def pad(image: Image, labels: Labels, size: Size, ignore: int) -> tuple[Image, Labels]:
    """Both enlarged at the bottom and the right to (height, width): with black, and with `ignore`."""
    down, right = (want - have for want, have in zip(size, labels.shape, strict=True))
    if not down and not right:
        return image, labels
    return (
        np.pad(image, ((0, down), (0, right), (0, 0))),
        np.pad(labels, ((0, down), (0, right)), constant_values=ignore),
    )


def disturb_colours(image: Image, rng: np.random.Generator) -> Image:
    """Photometric distortion: each with probability 1/2, contrast before or after saturation and hue.

    Brightness +-32, contrast and saturation x 0.5 to 1.5, hue +-18 of 180. (H, W, 3) uint8 RGB, a new array.
    """
    if rng.random() < 0.5:
        image = _linear(image, 1.0, rng.uniform(-32, 32))
    contrast_first = rng.random() < 0.5
    if contrast_first:
        image = _contrast(image, rng)
    if rng.random() < 0.5:
        image = _in_hsv(image, saturation=rng.uniform(0.5, 1.5))
    if rng.random() < 0.5:
        image = _in_hsv(image, hue=int(rng.integers(-18, 18)))
    return image if contrast_first else _contrast(image, rng)


def _contrast(image: Image, rng: np.random.Generator) -> Image:
    return _linear(image, rng.uniform(0.5, 1.5), 0.0) if rng.random() < 0.5 else image


def _linear(image: Image, factor: float, offset: float) -> Image:
    table = np.clip(np.arange(256, dtype=np.float32) * factor + offset, 0, 255).astype(np.uint8)
    return table[image]


def _in_hsv(image: Image, saturation: float = 1.0, hue: int = 0) -> Image:
    hsv = np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV), np.uint8)  # hue in 0..179
    if hue:
        hsv[..., 0] = (hsv[..., 0].astype(np.int32) + hue) % 180
    if saturation != 1.0:
        hsv[..., 1] = _linear(hsv[..., 1], saturation, 0.0)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)
