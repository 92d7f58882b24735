"""From a picture, in whatever form, to normalised network inputs."""

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from denseclip.clip import ImageStats
from denseclip.data.images import read_image
from denseclip.data.transforms import normalise
from denseclip.errors import UserError
from denseclip.segment.resample import Size
from denseclip.segment.settings import Settings
from denseclip.segment.views import Window, windows

Picture = str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor
MAX_WHOLE = 1 << 25  # pixels of one network input


def as_array(picture: Picture) -> NDArray[np.uint8]:
    """A picture as (H, W, 3) uint8 RGB.

    picture: a path; a PIL image; an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); a tensor (3, H, W). Arrays
    and tensors are uint8, or float in 0..1. Raises UserError for anything else.
    """
    if isinstance(picture, str | os.PathLike):
        return read_image(Path(picture))
    if isinstance(picture, Image.Image):
        return np.asarray(picture.convert("RGB"))
    array = (
        picture.detach().cpu().numpy().transpose(1, 2, 0)
        if isinstance(picture, Tensor) and picture.ndim == 3
        else picture
    )
    if not isinstance(array, np.ndarray):
        shape = f" of shape {tuple(picture.shape)}" if isinstance(picture, Tensor) else ""
        raise UserError(
            f"a {type(picture).__name__}{shape} is no picture; give a path, a PIL image, an array (H, W, 3) or a "
            "tensor (3, H, W), and several as a list"
        )
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise UserError(f"an array of shape {picture.shape} is no picture; give (H, W, 3)")
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):
            raise UserError("a float picture must have values in 0..1; divide by 255 or convert to uint8")
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise UserError(f"a picture of {array.dtype} is not understood; convert it to uint8")
    return np.ascontiguousarray(np.broadcast_to(array[..., :3], (*array.shape[:2], 3)))


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
