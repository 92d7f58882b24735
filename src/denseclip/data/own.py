"""The user's own data: images with masks, or images with COCO annotations, as `data.json` describes them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from denseclip.data.coco_entries import read_coco
from denseclip.data.datasets import SUFFIXES as MASK_SUFFIXES
from denseclip.data.datasets import (
    DatasetSpec,
    Entry,
    MaskFile,
    SegmentationDataset,
    colors,
    refuse_binary,
)
from denseclip.data.images import SUFFIXES as IMAGE_SUFFIXES
from denseclip.data.images import walk
from denseclip.errors import UserError
from denseclip.io import first_doubled, read_json, read_lines


class ImageEntry(Protocol):
    """An image in a file."""

    @property
    def image_id(self) -> str: ...  # noqa: D102

    @property
    def image(self) -> Path: ...  # noqa: D102


E = TypeVar("E", bound=ImageEntry)


@dataclass(frozen=True)
class OwnData:
    """What a `data.json` says; the fields are its keys. Give `masks` and `classes`, or `coco`.

    classes: {id in the masks: name}. ignore: ids that are not counted.
    """

    images: Path
    masks: Path | None = None
    coco: Path | None = None
    classes: Mapping[int, str] = field(default_factory=dict)
    ignore: tuple[int, ...] = (255,)
    background: str | None = None
    prompts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()
    splits: Mapping[str, Path] = field(default_factory=dict)
    name: str = "own data"

    def open(self, split: str | None = None) -> SegmentationDataset:
        """List the images of a split, all of them if None; none is read yet.

        Raises UserError if something is missing or contradictory.
        """
        if not self.images.is_dir():
            raise UserError(f"no images folder {self.images}: create it, or correct `images`")
        if (self.masks is None) == (self.coco is None):
            raise UserError(f"{self.name} needs either `masks` (with `classes`) or `coco`: give one of them")
        spec, entries = self._coco() if self.coco else self._masks()
        return SegmentationDataset(spec, split or "all", self.chosen(entries, split))

    def split_to_train(self, split: str) -> str | None:
        """The split to learn from when `split` is asked for: all images (None) only if there is no list "train"."""
        return None if split == "train" and split not in self.splits else split

    def _masks(self) -> tuple[DatasetSpec, list[Entry]]:
        assert self.masks is not None
        if not self.masks.is_dir():
            raise UserError(f"no masks folder {self.masks}: create it, or correct `masks`")
        if not self.classes:
            raise UserError('`classes` is empty: write {id: name}, e.g. {"0": "sky", "1": "cat"}')
        clash = set(self.classes) & set(self.ignore)
        if clash:
            raise UserError(f"id {min(clash)} is a class and ignored at once: remove it from one of the two")
        masks = _by_stem(self.masks, MASK_SUFFIXES)
        entries = [
            Entry(name, path, MaskFile(masks.get(name, self.masks / f"{name}.png")))
            for name, path in _by_stem(self.images, IMAGE_SUFFIXES).items()
        ]
        if entries and not any(entry.image_id in masks for entry in entries):
            raise UserError(
                f"no mask in {self.masks} belongs to an image: {entries[0].image.name} needs "
                f"{entries[0].mask}"
            )
        ids = sorted(self.classes)
        if 255 in self.ignore and len(ids) > 1:
            refuse_binary([entry.mask.path for entry in entries if isinstance(entry.mask, MaskFile)])
        return self._spec([self.classes[k] for k in ids], ids, self.ignore), entries

    def _coco(self) -> tuple[DatasetSpec, list[Entry]]:
        assert self.coco is not None
        if self.classes:
            raise UserError(f"the classes of {self.name} come from {self.coco}: remove `classes`")
        names, entries, void = read_coco(self.coco, self.images, self.background)
        return self._spec(names, range(len(names)), (void,)), entries

    def _spec(self, names: Sequence[str], ids: Sequence[int], void: Sequence[int]) -> DatasetSpec:
        for name in (*self.unseen, *self.prompts, *([self.background] if self.background else [])):
            if name not in names:
                raise UserError(
                    f"{name!r} is not a class of {self.name}: choose from {', '.join(names)[:200]}"
                )
        if not names:
            raise UserError(f"{self.name} declares no classes: add categories to {self.coco}")
        doubled = first_doubled([name.casefold() for name in names])
        if doubled is not None:
            raise UserError(f"class {doubled!r} is declared twice: give every id its own name")
        background = names.index(self.background) if self.background else None
        palette = colors(len(names) + 1)
        return DatasetSpec(
            self.name,
            classes=tuple(names),
            prompts=tuple(tuple(self.prompts.get(name, (name,))) for name in names),
            palette=palette[:-1] if background == 0 else palette[1:],
            label_ids=tuple(ids),
            void_ids=tuple(void),
            background=background,
            unseen=tuple(names.index(name) for name in self.unseen),
            default_split="all",
        )

    def chosen(self, entries: list[E], split: str | None) -> list[E]:
        """Those of a split, all if None; UserError for an unknown one, and for a fault in its list."""
        if not entries:
            raise UserError(f"{self.name} is empty, there is no image in {self.images}: put images there")
        if split is None or (split == "all" and split not in self.splits):
            return entries
        if split not in self.splits:
            names = ", ".join(("all", *self.splits))
            raise UserError(f"{self.name} has no split {split!r}: choose from {names}, or add it to `splits`")
        file = self.splits[split]
        files = {os.path.relpath(entry.image, self.images).replace(os.sep, "/"): entry for entry in entries}
        by_id = files | {entry.image_id: entry for entry in entries}
        found: dict[str, E] = {}
        for line in read_lines(file, f"write the ids of split {split} in it, or correct `splits`"):
            name = line.replace("\\", "/").removeprefix("./")
            if name not in by_id and line.startswith("#"):
                continue  # a comment
            if name not in by_id:
                raise UserError(
                    f"{file} names {line!r}, which is no image in {self.images}: correct the line"
                )
            entry = by_id[name]
            if entry.image_id in found:
                raise UserError(f"{file} names {line!r} twice: remove one of the two")
            found[entry.image_id] = entry
        return list(found.values())


def _by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """{path below the folder without its suffix: file}, by name; UserError if two files share a stem."""
    found: dict[str, Path] = {}
    for path in walk(folder, suffixes):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise UserError(f"{found[stem].name} and {path.name} in {path.parent} share a name: rename one")
        found[stem] = path
    return found


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
