"""The tables whose rows are trained, as data: one small file for each, and the figures that were published."""

import csv
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from denseclip.errors import UserError
from denseclip.recipes import ScaleName

FOLDER = "tables"
Metric = Literal[
    "mIoU", "mIoU(S)", "mIoU(U)", "hIoU", "pAcc", "pAcc(S)", "pAcc(U)", "mAcc", "mAcc(S)", "mAcc(U)",
    "box AP", "box AP50", "mask AP", "mask AP50",
]  # fmt: skip
"""As `Result.summary` has them, (S) over seen, (U) over unseen classes; and those of detectors."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Reference(_Section):
    """Where in published_trained.csv the figures of a row are. table: the row's own if empty."""

    table: str = ""
    method: str
    clip: str = ""
    setting: str


class RowRecipe(_Section):
    """One row.

    name: in claims, once for each data set. method: as it is shown. data: published name. paper, mini: the training
    recipe at that scale; without one the row is not there. teacher: nothing is trained, the recipe's teacher is
    evaluated as it labels. seeds: how often it is trained. test: what differs from the recipe's `evaluation`; rows
    that differ in nothing else share their trainings. mini_test: in its place at that scale.
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
    published: Reference | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.paper is None and self.mini is None:
            raise ValueError(f"row {self.name} has no recipe at any scale")
        if self.teacher and self.seeds > 1:
            raise ValueError(f"row {self.name}: a teacher is not trained, it has no seeds")
        return self

    def recipe(self, scale: ScaleName) -> str | None:
        """Name of the training recipe at a scale."""
        return self.paper if scale == "paper" else self.mini

    def testing(self, scale: ScaleName) -> Mapping[str, Any]:
        """What differs from the recipe's `evaluation` at a scale."""
        return self.test if scale == "paper" or self.mini_test is None else self.mini_test


class ClaimPart(_Section):
    """A sentence that the figures can bear out or not, on every data set that has all rows it is about.

    reason: why this threshold. kind "above": the weighted sum of rows is more than `above` points. "follows": of any
    two of `rows`, the one whose teacher (same place in `teachers`) is better is better. "within": no two of `rows`
    differ by `points`. data: published names, all if empty. paired: rows are evaluations of the same trainings, and
    are compared seed by seed.
    """

    text: str
    reason: str
    kind: Literal["above", "follows", "within"] = "above"
    metric: Metric = "mIoU"
    weights: Mapping[str, float] = {}
    above: float = 0.0
    rows: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    points: float = 0.0
    data: tuple[str, ...] = ()
    paired: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.kind == "above") != bool(self.weights) or (self.kind != "above") != bool(self.rows):
            raise ValueError('kind "above" has weights, the others have rows')
        if self.kind == "follows" and len(self.teachers) != len(self.rows):
            raise ValueError("every row needs its teacher")
        if (self.kind == "within") != (self.points > 0):
            raise ValueError('kind "within" has points above 0')
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """All rows it speaks of."""
        return (*self.weights, *self.rows, *self.teachers)


class FigurePart(_Section):
    """A named number: the weighted sum `top` of rows' figures over the weighted sum `bottom`, on one data set;
    without `bottom`, `top` itself.
    """

    name: str
    metric: Metric
    data: str
    top: Mapping[str, float]
    bottom: Mapping[str, float] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All rows it is made of."""
        return (*self.top, *self.bottom)


class TrainedTable(_Section):
    """One published table.

    metrics: its columns. others: methods that are shown as published. costs: names of
    `denseclip flops` that are shown with theirs. note: what a reader must know. unlike: what the miniature does not
    share with the paper's set-up.
    """

    name: str
    title: str
    metrics: tuple[Metric, ...]
    costs: tuple[str, ...] = ()
    rows: tuple[RowRecipe, ...]
    claims: tuple[ClaimPart, ...]
    figures: tuple[FigurePart, ...] = ()
    others: tuple[str, ...] = ()
    note: str = ""
    unlike: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        places = [(row.name, row.data) for row in self.rows]
        names = {name for name, _ in places}
        if len(places) > len(set(places)):
            raise ValueError("two rows have the same name and data")
        parts: Sequence[ClaimPart | FigurePart] = (*self.claims, *self.figures)
        for part in parts:
            for name in part.names:
                if name not in names:
                    raise ValueError(f"there is no row {name!r}; rows are {', '.join(sorted(names))}")
        return self

    def published(self, row: RowRecipe) -> Mapping[str, str]:
        """Published figures of a row by metric, as printed."""
        found = row.published
        if found is None:
            return {}
        return published_rows().get(
            (found.table or self.name, row.data, found.method, found.clip, found.setting), {}
        )


@cache
def trained_tables() -> tuple[str, ...]:
    """Names of the published tables with trained rows."""
    folder = files(__package__) / FOLDER
    names = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


@cache
def trained_table(name: str) -> TrainedTable:
    """The description of a published table; UserError for an unknown name, and for what is wrong in a file."""
    if name not in trained_tables():
        raise UserError(
            f"there is no table {name!r} with trained rows; choose one of {', '.join(trained_tables())}"
        )
    return parse_table(name, (files(__package__) / FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def parse_table(name: str, text: str) -> TrainedTable:
    """Read a table's TOML; UserError in one line for what is wrong first."""
    try:
        return TrainedTable.model_validate({"name": name, **tomllib.loads(text)})
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{name} is no TOML: {error}; correct it") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"table {name}: {key}: {first['msg']}; correct it".replace(": :", ":")) from None


@cache
def published_rows() -> Mapping[tuple[str, str, str, str, str], Mapping[str, str]]:
    """Published figures by metric, by (table, data set, method, CLIP, setting)."""
    text = (files(__package__) / "published_trained.csv").read_text(encoding="utf-8")
    found: dict[tuple[str, str, str, str, str], dict[str, str]] = {}
    for row in csv.DictReader(text.splitlines()):
        key = (row["table"], row["data"], row["method"], row["clip"], row["setting"])
        found.setdefault(key, {})[row["metric"]] = row["value"]
    return found
