"""COCO's instances JSON: boxes and masks of things."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from denseclip.data.coco import check_ids, coco_errors, load_json, run_lengths
from denseclip.data.images import read_image
from denseclip.data.things import Runs, ThingsSample, Truth
from denseclip.errors import UserError

Annotation = dict[str, Any]


@dataclass(frozen=True)
class CocoThings:
    """One image of a COCO file and its annotations, each with its class index."""

    file: Path
    image: Path
    image_id: str
    number: int
    size: tuple[int, int]  # height, width
    annotations: tuple[tuple[int, Annotation], ...]

    @property
    def learnable(self) -> bool:
        """Whether there is something that is no crowd."""
        return any(not annotation.get("iscrowd") for _, annotation in self.annotations)

    def read(self) -> ThingsSample:
        """The image and its things; UserError if the image is missing or damaged, or of another size."""
        image = read_image(self.image)
        if image.shape[:2] != self.size:
            raise UserError(
                f"{self.image} is {image.shape[1]}x{image.shape[0]} (width x height) but in {self.file} "
                f"{self.size[1]}x{self.size[0]}: correct its entry"
            )
        return ThingsSample(self.image_id, self.number, image, self.truth())

    def truth(self) -> Truth:
        """Its things; UserError naming an annotation whose mask cannot be understood."""
        height, width = self.size
        found = []
        for label, annotation in self.annotations:
            x, y, w, h = annotation["bbox"]
            box = (max(0.0, x), max(0.0, y), min(float(width), x + w), min(float(height), y + h))
            runs, crowd = self._runs(annotation), bool(annotation.get("iscrowd"))
            found.append((box, label, float(annotation.get("area", w * h)), crowd, runs))
        return Truth.of(found)

    def _runs(self, annotation: Annotation) -> Runs | None:
        if not annotation.get("segmentation"):
            return None
        try:
            return run_lengths(annotation["segmentation"], *self.size)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise UserError(
                f"cannot read annotation {annotation.get('id')} of {self.image_id} in {self.file} "
                f"({type(error).__name__}: {str(error)[:80]}): repair or remove it"
            ) from None


def read_instances(
    file: Path, images: Path, *, lenient: bool = False
) -> tuple[list[str], list[int], list[CocoThings]]:
    """Class names, their ids in the file, and the images of a COCO file. Classes are categories by rising id.

    lenient: boxes without area are left out, which COCO itself has; else they are errors.
    Raises UserError, naming the annotation, for what cannot be used; the images themselves are not looked at.
    """
    raw = load_json(file)
    with coco_errors(file):
        categories = sorted(raw["categories"], key=lambda category: category["id"])
        index = {category["id"]: k for k, category in enumerate(categories)}
        images_raw: Sequence[dict[str, Any]] = raw["images"]
        found: dict[Any, list[tuple[int, Annotation]]] = {image["id"]: [] for image in images_raw}
        sizes = {image["id"]: (int(image["height"]), int(image["width"])) for image in images_raw}
        for annotation in raw["annotations"]:
            check_ids(annotation, index, found, file)
            if _has_area(annotation, sizes[annotation["image_id"]], file, lenient=lenient):
                found[annotation["image_id"]].append((index[annotation["category_id"]], annotation))
        entries = [
            _entry(image, number, found[image["id"]], sizes[image["id"]], file, images)
            for number, image in enumerate(images_raw, start=1)
        ]
        names = [str(category["name"]) for category in categories]
    return names, [category["id"] for category in categories], entries


def _has_area(annotation: Annotation, size: tuple[int, int], file: Path, *, lenient: bool) -> bool:
    name = f"{file}: annotation {annotation.get('id')}"
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not np.isfinite(np.array(box, float)).all():
        raise UserError(f"{name} has the bbox {box}: write [x, y, width, height] in pixels")
    x, y, w, h = map(float, box)
    inside = min(x + w, size[1]) > max(x, 0) and min(y + h, size[0]) > max(y, 0)
    if w > 0 and h > 0 and inside:
        return True
    if lenient:
        return False
    reason = "a box without area" if w <= 0 or h <= 0 else "a box outside of its image"
    raise UserError(f"{name} has {reason}, {box}: correct or remove it")


def _entry(
    image: dict[str, Any],
    number: int,
    annotations: list[tuple[int, Annotation]],
    size: tuple[int, int],
    file: Path,
    images: Path,
) -> CocoThings:
    name = str(image["file_name"])
    own = image["id"] if isinstance(image["id"], int) else number
    stem = Path(name).with_suffix("").as_posix()
    return CocoThings(file, images / name, stem, own, size, tuple(annotations))
