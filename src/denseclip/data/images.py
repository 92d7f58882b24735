"""Pictures in whatever form as (H, W, 3) uint8 RGB, and where their files lie below a folder."""

import glob
import io
import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePath
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from denseclip.errors import UserError
from denseclip.outputs import is_output


def walk(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Files below `folder` that end in one of `suffixes` (lower case), by name, folder by folder.

    What is hidden (a file or folder whose name starts with a dot) is left out; folders that are links are entered,
    unless they lead back to where they are. Raises UserError for a folder that may not be read.
    """
    yield from _walk(folder, tuple(suffixes), (os.path.realpath(folder),))


def _walk(folder: Path, suffixes: tuple[str, ...], above: tuple[str, ...]) -> Iterator[Path]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"folder {folder} cannot be read ({error.strerror}); check its permissions") from None
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if entry.is_dir():
            real = os.path.realpath(path)
            if real not in above:
                yield from _walk(path, suffixes, (*above, real))
        elif path.suffix.lower() in suffixes and entry.is_file():
            yield path


_KINDS = """
    heic heif hif jxl jxr wdp svg svgz psd psb xcf ai eps pdf exr hdr dds ico icns tga pcx fits dcm nii
    jpf jpx j2k jpc crw cr2 cr3 nef nrw arw srf sr2 dng orf raf rw2 rwl pef srw x3f 3fr iiq kdc mrw raw
"""
UNREAD = frozenset(f".{kind}" for kind in _KINDS.split())


def count_unread(names: Iterable[str | PurePath]) -> Counter[str]:
    """How many of each suffix in `UNREAD`; hidden files do not count."""
    paths = map(PurePath, names)
    return Counter(
        p.suffix.lower() for p in paths if p.suffix.lower() in UNREAD and not p.name.startswith(".")
    )


def unread_in(sources: Sequence[str | os.PathLike[str]]) -> Counter[str]:
    """`count_unread` of what lies in folders or matches patterns; a file that is named as such does not count."""
    found: Counter[str] = Counter()
    for each in sources:
        source = os.fspath(each)
        path = Path(source)
        if path.is_dir():
            found += count_unread(walk(path, UNREAD))
        elif glob.has_magic(source) and not path.exists():
            found += count_unread(glob.glob(source, recursive=True))  # noqa: PTH207 Path.glob takes no absolute pattern
    return found


def unread_line(counts: Mapping[str, int]) -> str:
    """What to tell of them, in one line; empty if there are none."""
    if not counts:
        return ""
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
    return f"not read: {kinds} (such files are not understood; convert them to JPEG or PNG)"


ImageSource = str | os.PathLike[str] | bytes | BinaryIO

MAX_PIXELS = 178_956_970
"""Twice Pillow's own limit for a warning, which is where it stops by itself."""
MAX_BYTES_PER_PIXEL = 8  # 16-bit RGBA without compression
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".apng", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".ppm",
            ".pgm", ".pbm", ".avif", ".jp2")  # fmt: skip
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000")
_ORIENTATION = 0x0112
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # by the EXIF tag: how to turn the stored rows
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}
_pillow_limit = Lock()


def read_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read a picture, a path, its bytes or a binary file, as (H, W, 3) uint8 RGB.

    It is turned upright by its EXIF orientation. Grayscale, palette and CMYK become RGB (color profiles are
    not applied); 16 bits are scaled to 8, floats of 0..1 to 0..255; what is transparent shows white paper; of
    an animation the first frame is taken.

    Raises:
        UserError: it cannot be read, is no picture, is cut short or damaged, or has more than `max_pixels`.
    """
    name, content = _content(source, max_pixels * MAX_BYTES_PER_PIXEL)
    if not content:
        raise UserError(f"{name} is empty; copy it again")
    try:
        return _decode(content, name, max_pixels)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{name} is no picture in a known format; convert it to JPEG or PNG") from None
    except Image.DecompressionBombError:
        many = f"more than {2 * max_pixels:,} pixels"
        raise UserError(f"{name} has {many}; make it smaller") from None
    except Exception as error:  # decoders meet damage with anything from KeyError to MemoryError
        raise UserError(f"{name} is cut short or damaged ({_line(error)}); copy it again") from None


def list_images(sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Pictures named by files, folders (searched to the bottom) or patterns ("photos/**/*.jpg"), sorted.

    Folders and patterns give files with a suffix of `SUFFIXES` that are not hidden and not outputs of ours; a file
    named as such is taken whatever it is. Each file comes once.

    Raises:
        UserError: a source is missing or unreadable, or gives no picture.
    """
    several = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    if not several:
        raise UserError("no pictures are given; name files, folders or patterns such as 'photos/*.jpg'")
    return sorted({path for source in several for path in _expand(os.fspath(source))})


def _expand(source: str) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        found = [each for each in walk(path, SUFFIXES) if not is_output(each)]
        if not found:
            raise UserError(_none(f"folder {source} holds no pictures", source))
        return found
    if path.exists():
        return [path]
    if not glob.has_magic(source):
        raise UserError(f"there is no picture {source}; check the name")
    matches = map(Path, glob.glob(source, recursive=True))  # noqa: PTH207 Path.glob takes no absolute pattern
    found = [match for match in matches if _is_picture(match) and match.is_file()]
    if not found:
        raise UserError(_none(f"no picture matches {source}", source))
    return found


def _none(what: str, source: str) -> str:
    others = unread_line(unread_in([source]))
    return f"{what}; they end in {', '.join(SUFFIXES)}" + (f"; {others}" if others else "")


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not is_output(path)


def _content(source: ImageSource, max_bytes: int) -> tuple[str, bytes]:
    """What to call a source in a message, and its bytes."""
    if isinstance(source, bytes | bytearray | memoryview):
        return "the picture in memory", bytes(source)
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        return f"picture {path}", _read_file(path, max_bytes)
    if not hasattr(source, "read"):
        raise UserError(
            f"a picture cannot be read from {type(source).__name__}; give a path, bytes or a file"
        )
    name = f"picture {getattr(source, 'name', 'in memory')}"
    try:
        content = source.read()
    except (OSError, ValueError) as error:  # ValueError: the file is closed, or no text in its encoding
        raise UserError(f"{name} cannot be read ({_line(error)}); open it again as binary") from None
    if not isinstance(content, bytes):
        raise UserError(f"{name} is opened as text; open it as binary")
    return name, content


def _read_file(path: str, max_bytes: int) -> bytes:
    if path.startswith(("http://", "https://")):
        raise UserError(f"picture {path} is a web address; download it and give the file")
    try:
        status = os.stat(path)  # noqa: PTH116
        if stat.S_ISREG(status.st_mode) and status.st_size <= max_bytes:
            return Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no picture {path}; check the name") from None
    except PermissionError:
        raise UserError(f"picture {path} may not be read; check its permissions") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise UserError(f"picture {path!r} cannot be read ({_line(error)}); check it") from None
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path} is a folder; give a picture in it")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is no file but a device or a pipe; give a picture file")
    raise UserError(f"picture {path} has {status.st_size / 2**30:.1f} GiB; make it smaller")


def _decode(content: bytes, name: str, max_pixels: int) -> np.ndarray:
    with _open(content, max_pixels) as picture:
        width, height = picture.size
        if width * height > max_pixels:
            size = f"{width} x {height} pixels, more than {max_pixels:,}"
            raise UserError(f"{name} has {size}; make it smaller")
        return from_pillow(picture, name)


def from_pillow(picture: Image.Image, name: str) -> np.ndarray:
    """A Pillow image as `read_image` gives its file; UserError, with `name`, for values out of range."""
    picture.load()
    return upright(_to_rgb(picture, name), picture)


def is_turned(source: Path | bytes) -> bool:
    """Whether the EXIF orientation of a picture, of a path or in bytes, is not upright; False for what is none."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            return _orientation(picture) in _UPRIGHT
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def upright(array: np.ndarray, picture: Image.Image) -> np.ndarray:
    """The pixels of a picture, (H, W) or (H, W, 3), turned by its EXIF orientation."""
    turn = _UPRIGHT.get(_orientation(picture))
    return np.ascontiguousarray(turn(array) if turn else array)


def _open(content: bytes, max_pixels: int) -> Image.Image:
    """Pillow's open, which takes its limit from a global. Formats that run other programs are left out."""
    with _pillow_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
        try:
            return Image.open(io.BytesIO(content), formats=_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = before


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _to_rgb(picture: Image.Image, name: str) -> np.ndarray:
    """Any mode -> (H, W, 3) uint8."""
    if picture.mode == "F" or picture.mode.startswith("I"):
        stored = np.asarray(picture)  # (H, W)
        gray = gray_to_8_bit(stored, name)
        clear = picture.info.get("transparency")
        if isinstance(clear, int):  # a PNG names one gray value; Pillow cannot convert such a mode to RGBA
            gray[stored == clear] = 255
        return np.repeat(gray[..., None], 3, axis=-1)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return np.array(Image.alpha_composite(paper, layer).convert("RGB"))
    return np.array(picture.convert("RGB"))


def gray_to_8_bit(gray: np.ndarray, name: str) -> np.ndarray:
    """Whole numbers of 16 bits, or floats of 0..1, in any shape -> uint8, rounded; UserError for values beyond."""
    top = 1 if gray.dtype.kind == "f" else 65535
    if not (gray.min() >= 0 and gray.max() <= top):  # not a number fails, too
        span = f"{gray.min():g} to {gray.max():g}"
        raise UserError(f"{name} has values from {span}, not 0 to {top}; save it with 8 or 16 bits")
    return np.rint(gray.astype(np.float32) * (255 / top)).astype(np.uint8)


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged tag does not make the picture unreadable
        return 1


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


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
