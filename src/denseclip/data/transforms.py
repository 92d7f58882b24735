"""Resizing and normalizing pictures, and training crops."""

from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denseclip.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, pixels in 0..1; the papers' rows use these, not CLIP's own
IMAGENET_STD = (0.229, 0.224, 0.225)

_Kind = Literal["none", "short", "long", "long-short", "exact"]
_NUMBERS = {"none": 0, "short": 1, "long": 1, "long-short": 2, "exact": 2}


@dataclass(frozen=True)
class ResizeRule:
    """To which size a picture is resized before the network sees it, in pixels.

    none: as it is. short (s): the short side becomes s. long (l): the long side becomes l.
    long-short (l, s): as large as fits in l x s with its aspect ratio, the papers' rule: the short side is s
    unless the long side would pass l. exact (height, width): this size, whatever the aspect ratio.
    """

    kind: _Kind
    size: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read none, short:512, long:520, 2048x512 (long x short) or exact:224x200 (height x width).

        `str(rule)` writes the same form. Raises UserError for anything else.
        """
        kind, _, numbers = text.strip().lower().rpartition(":")
        if not kind:
            kind, numbers = ("none", "") if numbers == "none" else ("long-short", numbers)
        parts = numbers.split("x") if numbers else []
        known = kind in get_args(_Kind) and len(parts) == _NUMBERS[kind]
        if not known or not all(part.isdecimal() and 0 < int(part) <= 65536 for part in parts):
            raise UserError(
                f"cannot read the resize rule {text!r}: write none, short:512, long:520, "
                "2048x512 (long x short side) or exact:224x224 (height x width)"
            )
        size = tuple(int(part) for part in parts)
        return cls(kind, tuple(sorted(size, reverse=True)) if kind == "long-short" else size)  # type: ignore[arg-type]

    def __str__(self) -> str:
        numbers = "x".join(map(str, self.size))
        return {"none": "none", "long-short": numbers}.get(self.kind, f"{self.kind}:{numbers}")

    def target(self, height: int, width: int, factor: float = 1.0) -> tuple[int, int]:
        """(height, width) after resizing a picture of `height` x `width`; at least 1 x 1.

        factor: on the rule's numbers, whole ones again (as the official multi-scale test has it).
        """
        if self.kind == "none":
            return max(1, round(height * factor)), max(1, round(width * factor))
        wished = [max(1, int(number * factor)) for number in self.size]
        if self.kind == "exact":
            return wished[0], wished[1]
        sides = {"short": (min(height, width),), "long": (max(height, width),)}
        wanted = sides.get(self.kind, (max(height, width), min(height, width)))
        scale = min(new / old for new, old in zip(wished, wanted, strict=True))
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_image(image: NDArray[Any], rule: ResizeRule) -> NDArray[Any]:
    """Resize (H, W, 3) uint8 by the rule with OpenCV's bilinear filter (no antialiasing, as published)."""
    height, width = rule.target(*image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def normalize(
    image: NDArray[Any], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Tensor:
    """(H, W, 3) uint8 RGB -> float32 (3, H, W): (pixel / 255 - mean) / std, with `mean`, `std` for 0..1."""
    assert image.dtype == np.uint8
    pixels = (
        torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1).float()
    )  # (3, H, W)
    center = torch.tensor(mean)[:, None, None] * 255
    scale = torch.tensor(std)[:, None, None] * 255
    return ((pixels - center) / scale).contiguous()


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
    flip: probability of mirroring. colors: brightness, contrast, saturation and hue are disturbed.
    """

    resize: ResizeRule
    ratio: tuple[float, float] = (0.5, 2.0)
    crop: Size = (512, 512)
    cat_max_ratio: float = 0.75
    flip: float = 0.5
    colors: bool = True

    def __call__(self, image: Image, labels: Labels, ignore: int, rng: np.random.Generator) -> View:
        """(H, W, 3) uint8 RGB and (H, W) labels -> a view at most `crop` large, not padded; see `pad`."""
        frame = self._target(image.shape[:2], rng)
        image, labels = rescale(image, labels, frame)
        rows, columns = self._window(labels, ignore, rng)
        image, labels = image[rows, columns], labels[rows, columns]
        mirrored = bool(rng.random() < self.flip)
        if mirrored:
            image, labels = image[:, ::-1], labels[:, ::-1]
        if self.colors:
            image = disturb_colors(image, rng)
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


def disturb_colors(image: Image, rng: np.random.Generator) -> Image:
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
