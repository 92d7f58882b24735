"""The papers' tables as data."""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from denseclip.data.corruptions import KINDS
from denseclip.errors import UserError
from denseclip.evaluate.result import Corruption

Scale = Literal["mini", "paper"]
Metric = Literal[
    "mIoU", "mIoU(S)", "mIoU(U)", "hIoU", "pAcc", "pAcc(S)", "pAcc(U)", "mAcc", "mAcc(S)", "mAcc(U)",
    "box AP", "box AP50", "mask AP", "mask AP50",
]  # fmt: skip
"""As the summary of a result has them, (S) over seen, (U) over unseen classes; and those of detectors."""
CLEAN, CHANCE = "clean", "chance"
_DATA = files("denseclip.recipes")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Grid(_Part):
    """What every method is run on: by published name of a model or data set, what is loaded in its place.

    protocol: see `PROTOCOLS`. settings: what all methods change in it. images: only the first ones, None for all.
    """

    protocol: str
    settings: Mapping[str, Any] = {}
    models: Mapping[str, str]
    data: Mapping[str, str]
    images: int | None = None


class Method(_Part):
    """One way to run a model: what differs from the protocol.

    paper: what differs at that scale besides. models: published names, all if empty. scale: at this one alone.
    corruption: kind and level, None for clean.
    """

    name: str
    settings: Mapping[str, Any] = {}
    paper: Mapping[str, Any] = {}
    models: tuple[str, ...] = ()
    scale: Scale | None = None
    corruption: Corruption | None = None


class Row(_Part):
    """One row that is trained.

    name: in claims, once for each data set. method: as it is shown. data: published name. paper, mini: the training
    recipe at that scale; without one the row is not there. teacher: nothing is trained, the recipe's teacher is
    evaluated as it labels. seeds: how often it is trained. test: what differs from the recipe's `evaluation`; rows
    that differ in nothing else share their trainings. mini_test: in its place at that scale. published: as printed.
    """

    name: str
    method: str
    data: str
    paper: str | None = None
    mini: str | None = None
    teacher: bool = False
    seeds: int = Field(1, ge=1)
    test: Mapping[str, Any] = {}
    mini_test: Mapping[str, Any] | None = None
    published: Mapping[Metric, str] = {}


class Other(_Part):
    """Another paper's method, which is shown as published."""

    data: str
    method: str
    published: Mapping[Metric, str]


class ClaimSpec(_Part):
    """A sentence that the figures can bear out or not, on every data set that has all rows it is about.

    reason: why this threshold. kind "above": the weighted sum of rows is more than `above` points (best: of the rows
    that count against it, only the best one counts). "follows": of any two of `rows`, the one whose teacher (same
    place in `teachers`) is better is better. "within": no two of `rows` differ by `points`. "falls": with the level
    of each kind of corruption. data, models: published names, all if empty. paired: rows are evaluations of the same
    trainings, and are compared seed by seed.
    Names are those of rows; of methods, for each model by itself; MODEL/METHOD; or "chance", guessing every class
    equally often.
    """

    text: str
    reason: str = ""
    kind: Literal["above", "follows", "within", "falls"] = "above"
    metric: Metric = "mIoU"
    weights: Mapping[str, float] = {}
    above: float = 0.0
    best: bool = False
    rows: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    points: float = 0.0
    data: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    paired: bool = False


class FigureSpec(_Part):
    """A named number: the weighted sum `top` of rows' figures over the weighted sum `bottom`, on one data set;
    without `bottom`, `top` itself.
    """

    name: str
    metric: Metric
    data: str
    top: Mapping[str, float]
    bottom: Mapping[str, float] = {}


class Table(_Part):
    """One published table.

    metrics: its columns. methods, or levels of every kind of corruption: rows without training, on the grids `paper`
    and `mini`; published: their mIoU as printed, by MODEL/METHOD and data set ("mean": over all). rows: those that
    are trained. mean: also the mean over data sets. costs: names of `denseclip flops` that are shown with theirs.
    note: what a reader must know. unlike: what the miniature does not share with the paper's set-up.
    """

    name: str
    title: str
    note: str = ""
    unlike: str = ""
    metrics: tuple[Metric, ...] = ("mIoU",)
    methods: tuple[Method, ...] = ()
    levels: tuple[int, ...] = ()
    paper: Grid | None = None
    mini: Grid | None = None
    published: Mapping[str, Mapping[str, str]] = {}
    mean: bool = False
    rows: tuple[Row, ...] = ()
    others: tuple[Other, ...] = ()
    costs: tuple[str, ...] = ()
    claims: tuple[ClaimSpec, ...]
    figures: tuple[FigureSpec, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _corruptions(cls, values: dict[str, Any]) -> dict[str, Any]:
        grid = [{"name": f"{k} {n}", "corruption": (k, n)} for k in KINDS for n in values.get("levels", ())]
        return {**values, "methods": [{"name": CLEAN}, *grid]} if grid and "methods" not in values else values


@cache
def table_names() -> tuple[str, ...]:
    """All published tables."""
    names = (entry.name for entry in (_DATA / "tables").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


@cache
def read_table(name: str) -> Table:
    """A published table; UserError for an unknown name."""
    if name not in table_names():
        raise UserError(f"there is no table {name!r}; choose one of {', '.join(table_names())}")
    return parse_table(name, (_DATA / "tables" / f"{name}.toml").read_text(encoding="utf-8"))


def parse_table(name: str, text: str) -> Table:
    """A table from its TOML."""
    return Table.model_validate({"name": name, **tomllib.loads(text)})
