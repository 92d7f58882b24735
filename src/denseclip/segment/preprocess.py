"""From pixels to network inputs: size, windows, normalization."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from denseclip.clip import ImageStats
from denseclip.data.transforms import normalise
from denseclip.errors import UserError
from denseclip.segment.resample import Size
from denseclip.segment.settings import Settings, Slide


@dataclass(frozen=True)
class Window:
    """One network input: pixels [top, top + height) x [left, left + width) of the picture resized to `frame`."""

    frame: Size
    top: int
    left: int
    height: int
    width: int
    flip: bool = False

    def cut(self, frame: Tensor) -> Tensor:
        """The window of a resized picture (..., H, W)."""
        piece = frame[..., self.top : self.top + self.height, self.left : self.left + self.width]
        return piece.flip(-1) if self.flip else piece


def windows(frame: Size, slide: Slide | None, flip: bool) -> list[Window]:
    """The windows of one resized picture: all of it, or sliding; with `flip` also those of its mirror image."""
    if slide is None:
        boxes = [(0, 0, *frame)]
    else:
        h, w = min(slide.crop, frame[0]), min(slide.crop, frame[1])
        boxes = [(top, left, h, w) for top in slide.starts(frame[0]) for left in slide.starts(frame[1])]
    plain = [Window(frame, *box) for box in boxes]
    mirrored = [Window(frame, top, frame[1] - left - w, h, w, flip=True) for top, left, h, w in boxes]
    return plain + mirrored if flip else plain


MAX_WHOLE = 1 << 25  # pixels of one network input


def plan(size: Size, settings: Settings, stride: int) -> list[Window]:
    """The network inputs of a picture of (H, W): every scale, every window, every mirrored copy."""
    frames = dict.fromkeys(_frame(size, scale, settings, stride) for scale in settings.scales)
    cuts = []
    for frame in frames:
        if settings.slide is None and frame[0] * frame[1] > MAX_WHOLE:
            raise UserError(
                f"{frame[1]} x {frame[0]} pixels are too many for one network input; "
                "give --slide 512/341 or a smaller --resize"
            )
        cuts += windows(frame, settings.slide, settings.flip)
    return cuts


def _frame(size: Size, scale: float, settings: Settings, stride: int) -> Size:
    """The picture's size at one scale, in whole cells of the network unless the quirks say otherwise."""
    height, width = settings.resize.target(*size, scale)
    if not settings.compat.free_size:
        height, width = _whole_cells(height, stride), _whole_cells(width, stride)
    return max(height, stride), max(width, stride)


def network_inputs(image: NDArray[np.uint8], cuts: list[Window], stats: ImageStats) -> list[Tensor]:
    """The normalised inputs (3, h, w) float32 of an (H, W, 3) uint8 picture."""
    frames: dict[Size, Tensor] = {}
    for frame in {cut.frame for cut in cuts}:
        pixels: NDArray[Any] = image
        if frame != image.shape[:2]:
            pixels = np.asarray(cv2.resize(image, (frame[1], frame[0]), interpolation=cv2.INTER_LINEAR))
        frames[frame] = normalise(pixels, stats.mean, stats.std)
    return [cut.cut(frames[cut.frame]) for cut in cuts]


def _whole_cells(length: int, stride: int) -> int:
    return max(1, round(length / stride)) * stride
