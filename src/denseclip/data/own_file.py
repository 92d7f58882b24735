"""Reading `data.json`, which describes the user's own data.

    {"images": "pictures", "masks": "masks", "classes": {"0": "sky", "7": "cat"}, "ignore": 255}
    {"images": "pictures", "coco": "instances.json", "background": "background"}

Paths are relative to the file. Masks have the name of their image and hold one id per pixel. Optional for
both: "name"; "prompts" {class: [words]}; "unseen" [classes]; "splits" {split: list file with one id a line};
and "background", the class of what no other class names (with COCO: of every pixel without an annotation,
which otherwise is not counted).
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from denseclip.data.datasets import SegmentationDataset
from denseclip.data.own import OwnData
from denseclip.errors import UserError

EXAMPLE = '{"images": "images", "masks": "masks", "classes": {"0": "sky", "1": "cat"}, "ignore": 255}'


def open_own(path: Path, split: str | None = None) -> SegmentationDataset:
    """Open a `data.json`, or the folder that holds it; see the module's text for its keys.

    Raises UserError if the file cannot be understood, and as `OwnData.open`.
    """
    return read_own(path).open(split)


def read_own(path: Path) -> OwnData:
    """Read a `data.json`, or that of a folder; UserError names the file and the key that makes no sense."""
    path = path / "data.json" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"no file {path}: write one such as {EXAMPLE}")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): write it such as {EXAMPLE}") from None
    if not isinstance(raw, dict) or "images" not in raw:
        raise UserError(f"{path} does not say where the images are: write it such as {EXAMPLE}")
    known = [each.name for each in fields(OwnData)]
    for key in raw:
        if key not in known:
            raise UserError(f"{path}: unknown key {key!r}: choose from {', '.join(known)}")
    try:
        return OwnData(**{"name": path.parent.resolve().name, **_parsed(raw, path.parent)})
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: {error}: write it such as {EXAMPLE}") from None


def _parsed(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    found = dict(raw)
    for key in {"images", "masks", "coco"} & raw.keys():
        found[key] = folder / raw[key]
    if "classes" in raw:
        classes = raw["classes"]
        items = enumerate(classes) if isinstance(classes, list) else classes.items()
        found["classes"] = {_id(number): str(name) for number, name in items}
    if "ignore" in raw:
        ignore = raw["ignore"] if isinstance(raw["ignore"], list) else [raw["ignore"]]
        found["ignore"] = tuple(_id(number) for number in ignore)
    if "prompts" in raw:
        prompts = raw["prompts"].items()
        found["prompts"] = {
            name: (words,) if isinstance(words, str) else tuple(words) for name, words in prompts
        }
    if "splits" in raw:
        found["splits"] = {name: folder / file for name, file in raw["splits"].items()}
    if "unseen" in raw:
        found["unseen"] = tuple(raw["unseen"])
    return found


def _id(number: str | int) -> int:
    if not str(number).isdecimal() or int(number) > 65535:
        raise ValueError(f"{number!r} is not an id (a whole number from 0 to 65535)")
    return int(number)
