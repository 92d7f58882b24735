"""Reading `data.json`, which describes the user's own data.

    {"images": "pictures", "masks": "masks", "classes": {"0": "sky", "7": "cat"}, "ignore": 255}
    {"images": "pictures", "coco": "instances.json", "background": "background"}

Paths are relative to the file. Masks have the name of their image and hold one id per pixel. Optional for
both: "name"; "prompts" {class: [words]}; "unseen" [classes]; "splits" {split: list file with one id a line};
and "background", the class of what no other class names (with COCO: of every pixel without an annotation,
which otherwise is not counted).
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

from denseclip.data.datasets import SegmentationDataset
from denseclip.data.own import OwnData
from denseclip.data.texts import read_json
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
    raw = read_json(path, "file", f"write one such as {EXAMPLE}")
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
    found: dict[str, Any] = {
        key: folder / _text(key, raw[key]) for key in ("images", "masks", "coco") if raw.get(key)
    }
    found |= {key: _text(key, raw[key]) for key in ("name", "background") if raw.get(key) is not None}
    if "classes" in raw:
        classes = raw["classes"]
        items = enumerate(classes) if isinstance(classes, list) else classes.items()
        found["classes"] = {_id(number): _text("classes", name) for number, name in items}
    if "ignore" in raw:
        found["ignore"] = tuple(_id(number) for number in _several(raw["ignore"]))
    elif "255" in map(str, found.get("classes", ())):
        found["ignore"] = ()  # the default cannot be a class
    if "prompts" in raw:
        found["prompts"] = {name: _texts("prompts", words) for name, words in raw["prompts"].items()}
    if "splits" in raw:
        found["splits"] = {name: folder / _text("splits", file) for name, file in raw["splits"].items()}
    if "unseen" in raw:
        found["unseen"] = _texts("unseen", raw["unseen"])
    return found


def _several(value: Any) -> list[Any]:  # noqa: ANN401
    return value if isinstance(value, list) else [] if value is None else [value]


def _texts(key: str, value: Any) -> tuple[str, ...]:  # noqa: ANN401
    return tuple(_text(key, each) for each in _several(value))


def _text(key: str, value: Any) -> str:  # noqa: ANN401
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"`{key}` holds {str(value)[:40]!r}, which is no text")
    return value.strip()


def _id(number: Any) -> int:  # noqa: ANN401
    if isinstance(number, bool) or not str(number).isdecimal() or int(number) > 65535:
        raise ValueError(f"{number!r} is not an id (a whole number from 0 to 65535)")
    return int(number)
