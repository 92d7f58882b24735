"""The published tables as data: one small file for each, and the figures that were published.

Here are the rows that need no training; `denseclip.recipes.trained` has the others.
"""

import csv
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from denseclip.data.corruptions import KINDS
from denseclip.errors import UserError

TABLES = ("table3", "table4", "table5", "kspd", "variants")
ScaleName = Literal["mini", "paper"]
CLEAN = "clean"


@dataclass(frozen=True)
class Method:
    """One way to run a model: what differs from the protocol. corruption: kind and level, None for clean."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    corruption: tuple[str, int] | None = None


@dataclass(frozen=True)
class Scale:
    """What a table is run on.

    models, data: by published name, what is loaded in its place. protocol: see `PROTOCOLS`. images: only the
    first ones, None for all.
    """

    protocol: str
    models: Mapping[str, str]
    data: Mapping[str, str]
    images: int | None = None


@dataclass(frozen=True)
class ClaimRecipe:
    """A sentence that the figures can bear out or not, for every model and data set that it is about.

    higher, lower: names of methods, "MODEL/METHOD" for one model's, or "chance". kind "higher": the mean mIoU of
    `higher` is more than `times` that of `lower` (against "best": than the best of `lower`). kind "falls": for
    each kind of corruption, mIoU falls with the level. models: published names it is about, all if empty.
    """

    text: str
    higher: tuple[str, ...] = ()
    lower: tuple[str, ...] = ()
    kind: Literal["higher", "falls"] = "higher"
    against: Literal["mean", "best"] = "mean"
    times: float = 1.0
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """A published figure as printed ("41.5", "35-37"), and who published it."""

    value: str
    source: str


@dataclass(frozen=True)
class Recipe:
    """One published table.

    levels: of every kind of corruption, if it is about them. mean: also the mean over its data sets. note: what a
    reader must know. unlike: what the miniature does not share with the paper's set-up.
    """

    name: str
    title: str
    methods: tuple[Method, ...]
    scales: Mapping[str, Scale]
    claims: tuple[ClaimRecipe, ...]
    levels: tuple[int, ...] = ()
    mean: bool = False
    note: str = ""
    unlike: str = ""


@cache
def recipe(name: str) -> Recipe:
    """The recipe of a published table; UserError for an unknown name."""
    if name not in TABLES:
        raise UserError(f"there is no recipe {name!r}; choose one of {', '.join(TABLES)}")
    content = tomllib.loads((files(__name__) / f"{name}.toml").read_text(encoding="utf-8"))
    levels = tuple(content.get("corruptions", {}).get("levels", ()))
    methods = _corruptions(levels) if levels else tuple(Method(**method) for method in content["methods"])
    return Recipe(
        name=name,
        title=content["title"],
        methods=methods,
        scales={scale: Scale(**content[scale]) for scale in ("mini", "paper")},
        claims=tuple(ClaimRecipe(**_tuples(claim)) for claim in content["claims"]),
        levels=levels,
        mean=content.get("mean", False),
        note=content.get("note", ""),
        unlike=content.get("unlike", ""),
    )


def _corruptions(levels: tuple[int, ...]) -> tuple[Method, ...]:
    corrupted = (Method(f"{kind} {level}", {}, (kind, level)) for kind in KINDS for level in levels)
    return (Method(CLEAN), *corrupted)


def _tuples(claim: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in claim.items()}


@cache
def published() -> Mapping[tuple[str, str, str, str], Published]:
    """Published mIoU in percent by (table, model, data set, method)."""
    text = (files(__name__) / "published.csv").read_text(encoding="utf-8")
    return {
        (row["table"], row["model"], row["data"], row["method"]): Published(row["value"], row["source"])
        for row in csv.DictReader(text.splitlines())
    }
