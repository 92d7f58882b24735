"""The runs that a table is made of."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from denseclip.errors import UserError
from denseclip.evaluate.reproduce.evaluated import Evaluated
from denseclip.recipes import ScaleName
from denseclip.recipes.trained import RowRecipe, TrainedTable
from denseclip.train.checkpoint import FREE
from denseclip.train.recipe import (
    CLIP_START,
    EvaluationPart,
    TrainRecipe,
    laid_over,
    make_recipe,
    read_recipe,
)

Place = tuple[str, str]  # of a row in its table: name, published data set


@dataclass(frozen=True)
class Run:
    """One figure of a row. name: of the training recipe. seed: of the runs of its row; None for a teacher.

    recipe: resolved, with what the row changes in its `evaluation`.
    """

    row: RowRecipe
    name: str
    recipe: TrainRecipe
    seed: int | None

    @property
    def place(self) -> Place:
        """Where its row is in the table."""
        return self.row.name, self.row.data

    @property
    def title(self) -> str:
        """Such as "stickers20-zeroshot, seed 1"."""
        return f"teacher of {self.name}" if self.seed is None else f"{self.name}, seed {self.seed}"

    @property
    def training(self) -> TrainRecipe:
        """The recipe without its evaluation, on which training does not depend."""
        recipe = self.recipe
        plain = recipe.data.model_copy(update={"val": None, "val_split": None, "val_images": None})
        return recipe.model_copy(update={"data": plain, "evaluation": EvaluationPart()})

    def folder(self, fingerprint: str) -> str:
        """Name of the folder of its training. fingerprint: of the weights that it starts from."""
        return f"{self.name}-{self.recipe.seed}-{digest(self.training, fingerprint)}"


@dataclass(frozen=True)
class Made:
    """A finished run. seconds: of training. warnings: of drift."""

    run: Run
    result: Evaluated
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()


def runs_of(table: TrainedTable, scale: ScaleName, models: Mapping[str, str]) -> list[Run]:
    """All runs of a table at a scale: teachers, then the first seed of every row, then the next.

    models: by the name of a recipe's CLIP, what to load instead. Raises UserError for a row whose `test` is wrong.
    """
    found = []
    for row in table.rows:
        name = row.recipe(scale)
        if name is None:
            continue
        recipe = _recipe(row, scale, models)
        for seed in range(row.seeds):
            seeded = recipe.model_copy(update={"seed": recipe.seed + seed})
            found.append(Run(row, name, seeded, None if row.teacher else seed))
    return sorted(found, key=lambda run: -1 if run.seed is None else run.seed)


def _recipe(row: RowRecipe, scale: ScaleName, models: Mapping[str, str]) -> TrainRecipe:
    name = row.recipe(scale)
    assert name is not None
    recipe = read_recipe(name)
    sources = [models.get(clip, clip) for clip in recipe.clips]
    changes: dict[str, Any] = {"evaluation": dict(row.testing(scale))}
    if recipe.system == "maskclip+":
        changes["teacher"] = {"model": sources[0]}
        if sources[1:]:
            changes["student"] = {"backbone": CLIP_START + sources[1]}
    else:
        changes["denseclip"] = {"clip": sources[0]}
    content = laid_over(recipe.model_dump(exclude_unset=True), changes)
    return make_recipe(content, f"row {row.name}")


def digest(recipe: TrainRecipe, fingerprint: str) -> str:
    """A hash over whatever a training depends on. fingerprint: of its CLIP's weights.

    Values that are the default do not count, so that a field that recipes get later leaves kept trainings valid.
    """
    content = recipe.model_dump(mode="json", exclude=set(FREE), exclude_defaults=True)
    return hashlib.sha256((json.dumps(content, sort_keys=True) + fingerprint).encode()).hexdigest()[:16]


def choose(runs: list[Run], only: str | None, seeds: int | None) -> list[Run]:
    """The runs to make now: of rows whose recipe, name or method has `only` in it, the first `seeds` of each.

    Raises UserError if that leaves none.
    """
    found = [run for run in runs if seeds is None or run.seed is None or run.seed < seeds]
    if only is not None:
        word = only.lower()
        found = [run for run in found if word in f"{run.name} {run.row.name} {run.row.method}".lower()]
    if not found:
        names = ", ".join(dict.fromkeys(run.name for run in runs))
        raise UserError(f"no row has {only!r} in its name; choose one of {names}")
    return found
