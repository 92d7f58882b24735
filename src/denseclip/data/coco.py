"""COCO JSON: polygons and run lengths become masks."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denseclip.data.datasets import Entry
from denseclip.data.masks import ignore_index
from denseclip.errors import UserError


@dataclass(frozen=True)
class CocoMask:
    """The annotations of one image, painted when asked for. `rest` is what pixels without any become."""

    file: Path
    image: str
    height: int
    width: int
    shapes: tuple[tuple[int, dict[str, Any]], ...]  # (class index, annotation), the topmost last
    rest: int

    def __str__(self) -> str:
        return f"of {self.image} in {self.file}"

    def read(self) -> NDArray[Any]:
        """Class indices, (H, W) int32. Raises UserError naming the annotation that cannot be understood."""
        ids = np.full((self.height, self.width), self.rest, np.int32)
        for index, annotation in self.shapes:
            try:
                ids[_decode(annotation["segmentation"], self.height, self.width)] = index
            except (TypeError, ValueError, KeyError, IndexError) as error:
                raise UserError(
                    f"cannot read annotation {annotation.get('id')} of {self.image} in {self.file} "
                    f"({type(error).__name__}: {str(error)[:80]}): repair or remove it"
                ) from None
        return ids


def read_coco(file: Path, images: Path, background: str | None) -> tuple[list[str], list[Entry], int]:
    """Class names, entries and the void id of a COCO file.

    Classes are the categories by rising id; with `background` that class comes first and takes every pixel
    without an annotation, which otherwise are void. Small shapes lie on top of large ones, crowds below all.
    Raises UserError if the file is missing or not COCO JSON.
    """
    _need_pycocotools()
    raw = load_json(file)
    with coco_errors(file):
        categories = sorted(raw["categories"], key=lambda category: category["id"])
        names = [*([background] if background else []), *(str(category["name"]) for category in categories)]
        index = {category["id"]: k for k, category in enumerate(categories, start=bool(background))}
        shapes: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in raw["images"]}
        for annotation in raw["annotations"]:
            check_ids(annotation, index, shapes, file)
            shapes[annotation["image_id"]].append(annotation)
        void = ignore_index(len(names))
        rest = 0 if background else void
        entries = [_entry(image, shapes[image["id"]], index, file, images, rest) for image in raw["images"]]
    return names, entries, void


@contextlib.contextmanager
def coco_errors(file: Path) -> Iterator[None]:
    """What goes wrong while a file's content is understood becomes a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{file} is not a COCO file ({type(error).__name__}: {error}): check its format"
        ) from None


def load_json(file: Path) -> dict[str, Any]:
    """A COCO file; UserError if it is missing, torn or something else."""
    if not file.is_file():
        raise UserError(f"no COCO file {file}: correct `coco`")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}): export it again") from None
    if not isinstance(raw, dict):
        raise UserError(f"{file} is not a COCO file but a {type(raw).__name__}: check `coco`")
    missing = [key for key in ("images", "annotations", "categories") if key not in raw]
    if missing:
        raise UserError(f"{file} is not a COCO file, it has no {missing[0]!r}: check `coco`")
    return raw


def check_ids(annotation: dict[str, Any], index: dict[Any, int], images: dict[Any, Any], file: Path) -> None:
    """UserError if an annotation is of a category or an image that are not declared."""
    for key, known in (("category_id", index), ("image_id", images)):
        if annotation[key] not in known:
            raise UserError(
                f"{file}: annotation {annotation.get('id')} has {key} {annotation[key]}, which is not "
                "declared: declare it, or remove the annotation"
            )


def _entry(
    image: dict[str, Any],
    shapes: Sequence[dict[str, Any]],
    index: dict[Any, int],
    file: Path,
    images: Path,
    rest: int,
) -> Entry:
    ordered = sorted(shapes, key=lambda shape: (not shape.get("iscrowd"), -shape.get("area", 0)))
    painted = tuple((index[shape["category_id"]], shape) for shape in ordered)
    name = str(image["file_name"])
    mask = CocoMask(file, name, int(image["height"]), int(image["width"]), painted, rest)
    return Entry(Path(name).with_suffix("").as_posix(), images / name, mask)


def _decode(segmentation: list | dict, height: int, width: int) -> NDArray[np.bool_]:
    from pycocotools import mask

    return mask.decode(run_lengths(segmentation, height, width)).astype(bool)


def run_lengths(segmentation: list | dict, height: int, width: int) -> dict[str, Any]:
    """Polygons, counts or run lengths -> compressed run lengths of a mask of this size.

    Raises ValueError, TypeError, KeyError or IndexError for anything else.
    """
    from pycocotools import mask

    if isinstance(segmentation, list):
        if not segmentation or any(len(polygon) < 6 for polygon in segmentation):
            raise ValueError("a polygon needs at least 3 points")
        runs = mask.merge(mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        runs = mask.frPyObjects(segmentation, height, width)
    else:
        runs = segmentation
    if list(runs["size"]) != [height, width]:
        raise ValueError(f"its run lengths are for {runs['size']}, not {[height, width]}")
    return runs


def _need_pycocotools() -> None:
    try:
        import pycocotools  # noqa: F401
    except ImportError:
        raise UserError("COCO files need pycocotools: pip install 'denseclip[coco]'") from None
