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

from denseclip.data.coco_masks import Box, MaskError, Segmentation, parse_segmentation
from denseclip.errors import UserError
from denseclip.io import read_json

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
