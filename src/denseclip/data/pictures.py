"""A picture in whatever form, as the same (H, W, 3) uint8 RGB that its file gives."""

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from denseclip.data.images import from_pillow, gray_to_8_bit, read_image
from denseclip.errors import UserError

Picture = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any] | Tensor
_HOW = "give a path, a PIL image, an array (H, W, 3) or a tensor (3, H, W), and several as a list"


def as_rgb(picture: Picture) -> NDArray[np.uint8]:
    """A picture as (H, W, 3) uint8 RGB, by the rules of `read_image` whatever the form; what is that is not copied.

    picture: a path, bytes or a binary file; a PIL image, turned upright by its EXIF; an array (H, W), (1, H, W) or
    (H, W, C), or a tensor (H, W) or (C, H, W), with C = 1 gray, 2 gray and alpha, 3 RGB or 4 RGB and alpha; what is
    transparent shows white paper. Values: uint8; uint16 of 0..65535; bool; or floats of 0..1.
    Raises UserError for anything else: whole numbers of other types do not say what is white.
    """
    if isinstance(picture, str | os.PathLike):
        return read_image(Path(picture))
    if isinstance(picture, Image.Image):
        return _from_pil(picture)
    if isinstance(picture, Tensor):
        return _from_tensor(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 and picture.size:
            return np.ascontiguousarray(picture)
        return _from_array(picture, picture.shape)
    if isinstance(picture, bytes | bytearray | memoryview) or hasattr(picture, "read"):
        return read_image(picture)
    raise UserError(f"a {type(picture).__name__} is no picture; {_HOW}")


def _from_pil(picture: Image.Image) -> NDArray[np.uint8]:
    try:
        return from_pillow(picture, "the picture")
    except UserError:
        raise
    except Exception as error:  # it is closed, or its file is torn: decoders raise anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"the picture is closed or damaged ({reason}); open it again") from None


def _from_tensor(picture: Tensor) -> NDArray[np.uint8]:
    if picture.layout != torch.strided or picture.is_meta or picture.is_quantized or picture.is_nested:
        raise UserError(
            "a sparse, nested, quantized or meta tensor is no picture; give a dense one, (3, H, W)"
        )
    shape = tuple(picture.shape)
    if picture.ndim not in (2, 3) or (picture.ndim == 3 and shape[0] not in (1, 2, 3, 4)):
        raise UserError(f"a tensor of shape {shape} is no picture; give (3, H, W)")
    plain = picture.detach().cpu().resolve_neg()
    values = (plain.float() if plain.is_floating_point() else plain).numpy()  # NumPy has no bfloat16
    return _from_array(values.transpose(1, 2, 0) if values.ndim == 3 else values, shape)


def _from_array(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if array.ndim == 3 and array.shape[0] == 1 and array.shape[2] > 4:
        array = array[0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4) or 0 in array.shape:
        raise UserError(f"an array of shape {shape} is no picture; give (H, W, 3)")
    pixels = _to_8_bit(array)  # (H, W, C)
    mode = ("L", "LA", "RGB", "RGBA")[pixels.shape[2] - 1]
    whole = np.ascontiguousarray(pixels[..., 0] if mode == "L" else pixels)
    return from_pillow(
        Image.frombytes(mode, (whole.shape[1], whole.shape[0]), whole.tobytes()), "the picture"
    )


def _to_8_bit(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "f" or (array.dtype.kind == "u" and array.dtype.itemsize == 2):
        return gray_to_8_bit(array, "the picture")
    raise UserError(
        f"a picture of {array.dtype} does not say what is white; convert it to uint8 (0..255) or uint16 (0..65535)"
    )
