"""COCO files: one strict reader for data sets, detectors and lists of pictures.

Accepted is what follows; anything else is refused in one line that names the entry.

- images: `id`, a whole number or text, each once; `file_name`, each once, with "/" or "\\" between folders; `height`
  and `width` in pixels, or neither (null or missing): they are taken from the picture.
- categories: `id`, a whole number or text, and `name`, each once; two names that differ in capitals only are one.
- annotations: `image_id` and `category_id` that are declared; `segmentation`: polygons of at least 3 points, run
  lengths (a list or COCO's packed text), or none (null, missing, []); `bbox`: [x, y, width, height] or none; `area`
  or none; `iscrowd`: 0, 1, false, true, also as text, or none, which is 0.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

import numpy as np
from numpy.typing import NDArray

from denseclip.data.instances import Rle
from denseclip.errors import UserError
from denseclip.io import read_json

Box = tuple[float, float, float, float]
_FAR = 16  # how many sides of its image a point may lie outside; drawing takes time and memory for each pixel


class MaskError(ValueError):
    """What is wrong with a mask, without its name."""


@dataclass(frozen=True)
class Segmentation:
    """A mask that is not drawn yet: polygons, (x, y, x, y, ...) in pixels, or run lengths of a mask of `size`."""

    polygons: tuple[tuple[float, ...], ...] = ()
    size: tuple[int, int] | None = None  # height, width
    counts: tuple[int, ...] = ()  # column by column, zeros first

    def draw(self, height: int, width: int) -> Rle:
        """Compressed run lengths of the mask in an image of this size; MaskError if it is not of it."""
        from pycocotools import mask

        if self.size is None:
            limit = _FAR * max(height, width)
            if any(abs(value) > limit for polygon in self.polygons for value in polygon):
                raise MaskError(f"a polygon lies far outside of its image of {height} x {width}")
            return mask.merge(mask.frPyObjects([list(polygon) for polygon in self.polygons], height, width))
        if self.size != (height, width):
            raise MaskError(f"its run lengths are for {list(self.size)}, not {[height, width]}")
        return mask.frPyObjects({"size": [height, width], "counts": list(self.counts)}, height, width)


def parse_segmentation(raw: Any) -> Segmentation | None:  # noqa: ANN401
    """The `segmentation` of an annotation; None for null and []. Raises MaskError for what is neither mask nor none.

    Run lengths that leave out the last run of zeros get it; any other total that is not the image's is a fault.
    """
    if raw is None or raw == []:
        return None
    if isinstance(raw, list):
        polygons = [raw] if not isinstance(raw[0], list) else raw
        return Segmentation(tuple(map(_polygon, polygons)))
    if not isinstance(raw, dict) or "counts" not in raw:
        raise MaskError("its segmentation is neither polygons nor run lengths")
    size = raw.get("size")
    if not isinstance(size, list) or len(size) != 2 or not _whole(size) or min(size) < 1:
        raise MaskError("its run lengths have no size [height, width]")
    counts = raw["counts"]
    runs = unpack(counts) if isinstance(counts, str) else counts
    if (
        not isinstance(runs, list)
        or not _whole(runs)
        or min(runs, default=0) < 0
        or max(runs, default=0) >= 2**32
    ):
        raise MaskError("its run lengths are not whole numbers from 0 on")
    left = size[0] * size[1] - sum(runs)
    if left > 0 and len(runs) % 2 == 0:
        runs = [*runs, left]
    elif left:
        raise MaskError(f"its run lengths add up to {sum(runs)}, not to {size[0]} x {size[1]}")
    return Segmentation(size=(size[0], size[1]), counts=tuple(runs))


def unpack(text: str) -> list[int]:
    """COCO's packed run lengths -> run lengths. Raises MaskError if the text is cut or has other letters.

    Each number is written in groups of 5 bits from the lowest on, bit 6 says that more follow, and from the fourth
    on it is the difference to the one two before (pycocotools, `rleToString`).
    """
    runs: list[int] = []
    value, shift, more = 0, 0, False
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 60:
            raise MaskError("its packed run lengths are damaged")
        value |= (code & 31) << shift
        shift, more = shift + 5, bool(code & 32)
        if more:
            continue
        if code & 16:
            value -= 1 << shift  # negative: the sign is carried on
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    if more:
        raise MaskError("its packed run lengths are cut short")
    return runs


def box_of(runs: Rle | None) -> Box:
    """x, y, width, height around a mask; all 0 if it is empty or there is none."""
    from pycocotools import mask

    if runs is None:
        return 0.0, 0.0, 0.0, 0.0
    x, y, width, height = map(float, mask.toBbox(runs))
    return x, y, width, height


def pixels(runs: Rle) -> int:
    """How many pixels a mask has."""
    from pycocotools import mask

    return int(mask.area(runs))


def paint(ids: NDArray[np.int32], runs: Rle, value: int) -> None:
    """Set the pixels of a mask in ids (H, W)."""
    from pycocotools import mask

    ids[mask.decode(runs).astype(bool)] = value


def _polygon(points: Any) -> tuple[float, ...]:  # noqa: ANN401
    if not isinstance(points, list) or not set(map(type, points)) <= {int, float} or not _all_finite(points):
        raise MaskError("a polygon is no list of numbers")
    if len(points) < 6 or len(points) % 2:
        raise MaskError(f"a polygon has {len(points)} numbers; it needs x and y of at least 3 points")
    return tuple(points)


def _whole(values: list[Any]) -> bool:
    return set(map(type, values)) <= {int}


def _all_finite(points: list[float]) -> bool:
    try:
        return all(map(math.isfinite, points))
    except OverflowError:  # a whole number that no float holds
        return False


_CROWD = {0: False, 1: True, "0": False, "1": True, "false": False, "true": True, "": False}
_LARGEST = 2**53  # whole numbers beyond are not exact in other programs


class BoxesOnlyError(UserError):
    """A COCO file without any mask is no data for segmentation."""


@dataclass(frozen=True)
class Annotation:
    """One annotation. label: its class index. box: x, y, width, height in pixels. None: the file does not say."""

    name: str
    label: int
    crowd: bool
    box: Box | None
    area: float | None
    segmentation: Segmentation | None


@dataclass(frozen=True)
class CocoImage:
    """One image. image_id: its name without the suffix. number: a whole number that no other image has."""

    file: Path
    path: Path
    file_name: str
    image_id: str
    number: int
    declared: tuple[int, int] | None
    annotations: tuple[Annotation, ...]

    def check_size(self, size: tuple[int, int]) -> None:
        """UserError if the picture's size (H, W) is not what the file says."""
        if self.declared not in (None, size):
            there, said = f"{size[1]}x{size[0]}", "{1}x{0}".format(*self.declared)
            raise UserError(
                f"{self.path} is {there} (width x height) but in {self.file} {said}: correct its entry"
            )


@dataclass(frozen=True)
class CocoFile:
    """What a COCO file holds. names, ids: of its categories, by rising id; a class index is a place in them."""

    file: Path
    names: tuple[str, ...]
    ids: tuple[int, ...]
    images: tuple[CocoImage, ...]

    def require_masks(self) -> None:
        """BoxesOnlyError if it has annotations but none with a mask."""
        annotations = [each for image in self.images for each in image.annotations]
        if annotations and not any(each.segmentation for each in annotations):
            raise BoxesOnlyError(
                f"{self.file} has boxes but no masks: train a detector on it, or add `segmentation`"
            )


def read_coco_file(file: Path, folder: Path) -> CocoFile:
    """Read a COCO file whose pictures are in `folder`; no picture is looked at, no mask is drawn.

    Raises UserError if the file is missing, is no COCO JSON, or holds what the module's text does not accept.
    """
    raw = read_json(file, "COCO file", "correct `coco`")
    names, index = _categories(raw, file)
    pictures = parse_images(raw, file)
    annotations: dict[int | str, list[Annotation]] = {own: [] for own in pictures}
    for place, entry in enumerate(_entries(raw, "annotations", file), start=1):
        number = entry.get("id", f"number {place}")
        image = _declared(entry, "image_id", annotations, file, number)
        label = index[_declared(entry, "category_id", index, file, number)]
        annotations[image].append(
            _annotation(entry, label, f"annotation {number} of {pictures[image]}", file)
        )
    stems = {own: Path(name).with_suffix("").as_posix() for own, name in pictures.items()}
    shared = {stem for stem, count in Counter(stems.values()).items() if count > 1}
    sizes = {own: _size(image, file) for own, image in _by_id(raw, file).items()}
    numbered = all(isinstance(own, int) for own in pictures)
    images = tuple(
        CocoImage(
            file,
            folder / name,
            name,
            name if stems[own] in shared else stems[own],
            own if numbered and isinstance(own, int) else place,
            sizes[own],
            tuple(annotations[own]),
        )
        for place, (own, name) in enumerate(pictures.items(), start=1)
    )
    ids = [own if isinstance(own, int) else None for own in index]
    return CocoFile(file, names, tuple(range(1, len(ids) + 1) if None in ids else ids), images)  # type: ignore[arg-type]


def parse_images(raw: Any, file: object) -> dict[int | str, str]:  # noqa: ANN401
    """{id: file name with "/"} of a COCO file's content, in its order; `file` names it in messages.

    Raises UserError for an image without id or name, and if two share one.
    """
    found: dict[int | str, str] = {}
    for own, image in _by_id(raw, file).items():
        name = image.get("file_name")
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            _refuse(file, f"image {own} has the file_name {_show(name)}", "give the name of its picture")
        found[own] = name.replace("\\", "/")
    _refuse_doubled(list(found.values()), "images have the file_name", file)
    return found


def _by_id(raw: Any, file: object) -> dict[int | str, dict[str, Any]]:  # noqa: ANN401
    images = _entries(raw, "images", file)
    numbers = [_id(image, "image", file) for image in images]
    _refuse_doubled(numbers, "images have the id", file)
    return dict(zip(numbers, images, strict=True))


def _categories(raw: Any, file: Path) -> tuple[tuple[str, ...], dict[int | str, int]]:  # noqa: ANN401
    """Names by rising id, and {id: class index}."""
    categories = _entries(raw, "categories", file)
    ids = [_id(category, "category", file) for category in categories]
    _refuse_doubled(ids, "categories have the id", file)
    names = {}
    for own, category in zip(ids, categories, strict=True):
        name = category.get("name")
        if not isinstance(name, str) or not name.strip():
            _refuse(file, f"category {own} has the name {_show(name)}", "give it a name")
        names[own] = name.strip()
    _refuse_doubled([name.casefold() for name in names.values()], "categories have the name", file)
    ordered = sorted(ids, key=lambda own: (isinstance(own, str), own))
    return tuple(names[own] for own in ordered), {own: k for k, own in enumerate(ordered)}


def _annotation(entry: Mapping[str, Any], label: int, name: str, file: Path) -> Annotation:
    box, area, crowd = entry.get("bbox"), entry.get("area"), entry.get("iscrowd")
    if box is not None and not (
        isinstance(box, list) and (not box or (len(box) == 4 and all(map(_finite, box))))
    ):
        _refuse(file, f"{name} has the bbox {_show(box)}", "write [x, y, width, height] in pixels")
    if area is not None and not (_finite(area) and area >= 0):
        _refuse(file, f"{name} has the area {_show(area)}", "write its pixels, or null")
    key = crowd.strip().lower() if isinstance(crowd, str) else 0 if crowd is None else crowd
    if not isinstance(key, str | int | float) or key not in _CROWD:
        _refuse(file, f"{name} has iscrowd {_show(crowd)}", "write 0 or 1")
    try:
        segmentation = parse_segmentation(entry.get("segmentation"))
    except MaskError as fault:
        _refuse(file, f"{name}: {fault}", "repair or remove it")
    return Annotation(name, label, _CROWD[key], tuple(box) if box else None, area, segmentation)


def _size(image: Mapping[str, Any], file: Path) -> tuple[int, int] | None:
    size = [image.get("height"), image.get("width")]
    if size == [None, None]:
        return None
    height, width = (int(side) if _finite(side) and side == int(side) else 0 for side in size)
    if not (0 < height < 2**31 and 0 < width < 2**31):
        wrong = f"image {image['id']} has height {_show(size[0])} and width {_show(size[1])}"
        _refuse(file, wrong, "write pixels, or leave both out")
    return height, width


def _entries(raw: Any, key: str, file: object) -> list[dict[str, Any]]:  # noqa: ANN401
    if not isinstance(raw, dict):
        raise UserError(
            f"{file} is not a COCO file but a {type(raw).__name__}: give one with images and categories"
        )
    if key not in raw:
        raise UserError(f"{file} is not a COCO file, it has no {key!r}: add it, or give another file")
    entries = raw[key]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{file} is not a COCO file, {key!r} is no list of objects: repair it")
    return entries


def _id(entry: Mapping[str, Any], what: str, file: object) -> int | str:
    own = entry.get("id")
    if _finite(own) and own == int(own) and abs(own) <= _LARGEST:
        return int(own)
    if not isinstance(own, str) or not own:
        _refuse(file, f"{what} {_show(entry)} has the id {_show(own)}", "give it a whole number")
    return own


def _declared(
    entry: Mapping[str, Any], key: str, known: Mapping[int | str, Any], file: Path, number: object
) -> int | str:
    own = entry.get(key)
    if isinstance(own, bool) or not isinstance(own, int | float | str) or own not in known:
        fix = "declare it, or remove the annotation"
        _refuse(file, f"annotation {number} has {key} {_show(own)}, which is not declared", fix)
    return own if isinstance(own, str) else int(own)


def _refuse_doubled(values: Sequence[int | str], what: str, file: object) -> None:
    seen: set[int | str] = set()
    for value in values:
        if value in seen:
            _refuse(file, f"two {what} {_show(value)}", "repair it")
        seen.add(value)


def _refuse(file: object, wrong: str, fix: str) -> NoReturn:
    raise UserError(f"{file}: {wrong}: {fix}")


def _finite(value: Any) -> TypeGuard[int | float]:  # noqa: ANN401
    """Whether it is a number; true, text and infinities are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 2**1000 and math.isfinite(value)


def _show(value: object) -> str:
    """A value in a message: short, and in one line."""
    return ascii(value)[:60] if not isinstance(value, str) else repr(value)[:60]
