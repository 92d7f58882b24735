"""The fixed lists of the MaskCLIP experiments: templates, class sets, data sets."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from denseclip.errors import UserError


@dataclass(frozen=True)
class DatasetFacts:
    """One labelled data set: index order is label order, with `background` first where it is a class.

    `class_set` names the words that stand for the classes (they differ from the data set's own names,
    and never contain `background`). `palette` is RGB, 0..255, one colour a class. `unseen` are the label
    indices hidden in the zero-shot setting, empty where there is no such split.
    """

    name: str
    class_set: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    unseen: tuple[int, ...]


@dataclass(frozen=True)
class Facts:
    """What `assets/facts.json` holds (source: the official MaskCLIP code).

    `coco_stuff_missing_ids`: raw ids of COCO-Stuff (0..181) that no class has.
    `context_raw_ids`: the 60 of the 459 Context categories that are used, 0 for background, in label order.
    """

    templates: tuple[str, ...]
    class_sets: Mapping[str, tuple[str, ...]]
    datasets: Mapping[str, DatasetFacts]
    coco_stuff_missing_ids: tuple[int, ...]
    context_raw_ids: tuple[int, ...]


@cache
def facts() -> Facts:
    """Read the packaged facts, once."""
    raw = json.loads((files("denseclip") / "assets" / "facts.json").read_text(encoding="utf-8"))
    return Facts(
        templates=tuple(raw["templates"]),
        class_sets={name: tuple(words) for name, words in raw["class_sets"].items()},
        datasets={name: _dataset(name, entry) for name, entry in raw["datasets"].items()},
        coco_stuff_missing_ids=tuple(raw["coco_stuff_missing_ids"]),
        context_raw_ids=tuple(raw["context_raw_ids"]),
    )


def class_set_names() -> tuple[str, ...]:
    """Names of all class sets."""
    return tuple(facts().class_sets)


def class_set(name: str) -> tuple[str, ...]:
    """Words of a class set, in label order: "voc", "context", "coco-stuff", "ade", "city", "context-459", ...

    Case and `_` for `-` do not matter. Words are as in the official code, so "ade" has `"bed "` with its
    trailing blank (harmless: the tokenizer drops it). Source: MaskCLIP, prompt engineering tool.

    Raises:
        UserError: there is no set of that name.
    """
    return facts().class_sets[_known(name, facts().class_sets, "class set")]


def is_class_set(name: str) -> bool:
    """Whether `class_set(name)` would answer."""
    return _plain(name) in facts().class_sets


def dataset_facts(name: str) -> DatasetFacts:
    """Classes, palette and unseen labels of "voc20", "voc21", "context59", "context60", "coco-stuff", ...

    Raises:
        UserError: there is no data set of that name.
    """
    return facts().datasets[_known(name, facts().datasets, "data set")]


def coco_things() -> tuple[str, ...]:
    """The 80 classes of COCO's instances, in the order of their ids; COCO-Stuff has them first."""
    return dataset_facts("coco-stuff").classes[:80]


def _known(name: str, table: Mapping[str, object], kind: str) -> str:
    if _plain(name) not in table:
        raise UserError(f"there is no {kind} {name!r}; known are {', '.join(table)}")
    return _plain(name)


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def _dataset(name: str, entry: dict[str, Any]) -> DatasetFacts:
    palette = tuple((int(r), int(g), int(b)) for r, g, b in entry["palette"])
    assert len(palette) == len(entry["classes"])
    return DatasetFacts(name, entry["class_set"], tuple(entry["classes"]), palette, tuple(entry["unseen"]))
