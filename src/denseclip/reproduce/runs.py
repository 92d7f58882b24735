"""The runs that tables are made of."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from denseclip.errors import UserError
from denseclip.evaluate.detection import DetectionFigures
from denseclip.evaluate.result import Corruption, Result
from denseclip.reproduce.tables import Metric, Row, Scale, Table
from denseclip.train.progress import FREE
from denseclip.train.recipe import (
    CLIP_START,
    EvaluationPart,
    TrainRecipe,
    laid_over,
    make_recipe,
    read_recipe,
)

Rows = Literal["training-free", "trained", "all"]
STAND_INS = {"RN50": "tiny-rn", "ViT-B-16": "tiny-vit"}
"""The CLIPs of the miniatures' recipes by published name."""
Key = tuple[str, str]
"""Of a row: its name in claims, and the published data set."""


@dataclass(frozen=True)
class Run:
    """One figure of a row: a model on a data set, after training if it has a seed.

    name, place: of its row in claims, and the published data set. method: as it is shown. source: what is loaded as
    the model; of a trained row its teacher, or where it starts. data, images, protocol, settings, corruption: how it
    is evaluated. published: figures as printed, by metric. stands_for, model: of a row of a grid, the published
    model, and what is shown in its place. recipe, recipe_name: of the other rows. seed: of the runs of its row, None
    where nothing is trained.
    """

    name: str
    place: str
    method: str
    source: str
    data: str
    images: int | None
    protocol: str
    settings: Mapping[str, Any]
    published: Mapping[Metric, str]
    corruption: Corruption | None = None
    stands_for: str = ""
    model: str = ""
    recipe: TrainRecipe | None = None
    recipe_name: str = ""
    seed: int | None = None

    @property
    def key(self) -> Key:
        """Its row."""
        return self.name, self.place

    @property
    def title(self) -> str:
        """Such as "stickers20-zeroshot, seed 1"."""
        if self.recipe is None:
            return f"{self.model}, {self.data}, {self.method}"
        return (
            f"teacher of {self.recipe_name}" if self.seed is None else f"{self.recipe_name}, seed {self.seed}"
        )

    def figure(self, metric: str) -> str:
        """What its row's figure is called among all of a table."""
        return f"{self.name if self.recipe else self.model} / {self.data} / {metric if self.recipe else self.method}"

    @property
    def clips(self) -> tuple[str, ...]:
        """The CLIPs it needs."""
        return self.recipe.clips if self.recipe else (self.source,)

    @property
    def training(self) -> TrainRecipe:
        """The recipe without its evaluation, on which training does not depend."""
        assert self.recipe is not None
        plain = self.recipe.data.model_copy(update={"val": None, "val_split": None, "val_images": None})
        return self.recipe.model_copy(update={"data": plain, "evaluation": EvaluationPart()})

    def folder(self, fingerprint: str) -> str:
        """Name of the folder of its training, by whatever that depends on. fingerprint: of its CLIPs' weights.

        Values that are the default do not count, so that a field that recipes get later leaves kept trainings valid.
        """
        recipe = self.training
        content = recipe.model_dump(mode="json", exclude=set(FREE), exclude_defaults=True)
        digest = hashlib.sha256((json.dumps(content, sort_keys=True) + fingerprint).encode()).hexdigest()[:16]
        return f"{self.recipe_name}-{recipe.seed}-{digest}"

    def clip_and_student(self) -> tuple[str, str]:
        """What is run or labels, with what makes it dense if that is not the usual way; and what is trained."""
        if self.recipe is None:
            return self.model, ""
        part, student, other = self.recipe.teacher, self.recipe.student, self.recipe.denseclip
        ways = [f"({way})" for way in (part.preset, part.refine) if way and way != "maskclip"]
        teacher = " ".join([Path(part.model).name, *ways])
        if self.seed is None:
            return teacher, ""
        start = Path(self.clips[-1]).name
        if self.recipe.system == "detection":
            kind = self.recipe.detection.config.get("kind", "retinanet")
            return "", f"{start}, {'Mask R-CNN' if kind == 'maskrcnn' else 'RetinaNet'}"
        if self.recipe.system == "denseclip":
            return "", f"{start}{'' if other.weights == 'clip' else ' from random weights'}, Semantic FPN"
        backbone = start if student.from_clip else student.backbone.removeprefix("timm:")
        trained = f"{backbone}, {student.head}, stride {student.output_stride}"
        return teacher if self.recipe.teacher_needed else "", trained


@dataclass(frozen=True)
class FinishedRun:
    """A run and its figures. seconds: of training. warnings: of drift. weights: of its CLIPs, if it was trained."""

    run: Run
    result: Result | DetectionFigures
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()


Finished = Mapping[Key, Sequence[FinishedRun]]
"""Finished runs by row."""


def runs_of(
    table: Table,
    scale: Scale,
    rows: Rows = "all",
    models: Mapping[str, str] | None = None,
    precision: str = "fp32",
) -> list[Run]:
    """All runs of a table at a scale: those without training, then the first seed of every row, then the next.

    models: by published name, what to load instead. precision: of trainings whose recipe leaves it open.
    Raises UserError if there are no such rows, and for a model that no row has.
    """
    given = dict(models or {})
    found = _grid_runs(table, scale, given) if rows != "trained" and table.methods else []
    found += _row_runs(table, scale, given, precision) if rows != "training-free" else []
    if not found:
        raise UserError(f"{table.name} has no {rows} rows; leave out --rows")
    if given:
        usual = {shown: name for name, shown in _stand_ins(scale).items()}
        clips = (clip for run in runs_of(table, scale, rows) for clip in run.clips)
        known = sorted({usual.get(clip, clip) for clip in clips})
        for strange in sorted(set(given) - set(known)):
            raise UserError(f"{table.name} has no model {strange!r}; it has {', '.join(known)}")
    return sorted(found, key=lambda run: -1 if run.seed is None else run.seed)


def _stand_ins(scale: Scale) -> Mapping[str, str]:
    return STAND_INS if scale == "mini" else {}


def _grid_runs(table: Table, scale: Scale, models: Mapping[str, str]) -> list[Run]:
    """By model, data set, method; only at paper scale are there published figures to compare with."""
    grid = table.paper if scale == "paper" else table.mini
    assert grid is not None
    found = []
    for (name, model), (place, data), method in product(
        grid.models.items(), grid.data.items(), table.methods
    ):
        if (method.models and name not in method.models) or method.scale not in (None, scale):
            continue
        row = f"{name}/{method.name}"
        printed = table.published.get(row, {}).get(place) if scale == "paper" else None
        run = Run(
            name=row,
            place=place,
            method=method.name,
            source=models.get(name, model),
            data=data,
            images=grid.images,
            protocol=grid.protocol,
            settings={**grid.settings, **method.settings, **(method.paper if scale == "paper" else {})},
            published={"mIoU": printed} if printed else {},
            corruption=method.corruption,
            stands_for=name,
            model=model,
        )
        found.append(run)
    return found


def _row_runs(table: Table, scale: Scale, models: Mapping[str, str], precision: str) -> list[Run]:
    """By row and seed; what a row changes in its recipe's evaluation stands in `settings`."""
    found = []
    given = {_stand_ins(scale).get(name, name): path for name, path in models.items()}
    for row in table.rows:
        name = row.paper if scale == "paper" else row.mini
        if name is None:
            continue
        recipe = _recipe(row, name, scale, given, precision)
        assert recipe.data.val is not None
        settings = recipe.evaluation.model_dump(exclude_none=True)
        if row.teacher:  # as it labels: its dilation and refinement too; otherwise run like its student
            settings |= recipe.teacher.model_dump(include={"preset", "refine", "ks_norm"})
        for seed in range(row.seeds):
            run = Run(
                name=row.name,
                place=row.data,
                method=row.method,
                source=recipe.clips[0],
                data=recipe.data.val,
                images=recipe.data.val_images,
                protocol="official" if scale == "paper" else "ours",
                settings=settings,
                published=dict(row.published),
                recipe=recipe.model_copy(update={"seed": recipe.seed + seed}),
                recipe_name=Path(name).stem,
                seed=None if row.teacher else seed,
            )
            found.append(run)
    return found


def _recipe(row: Row, name: str, scale: Scale, models: Mapping[str, str], precision: str) -> TrainRecipe:
    """A training recipe with what its row and the user change in it. models: by the recipe's names."""
    recipe = read_recipe(name)
    sources = [models.get(clip, clip) for clip in recipe.clips]
    test = row.test if scale == "paper" or row.mini_test is None else row.mini_test
    changes: dict[str, Any] = {"evaluation": dict(test)}
    if recipe.precision == "auto":
        changes["precision"] = precision
    if recipe.system == "maskclip+":
        changes["teacher"] = {"model": sources[0]}
        if sources[1:]:
            changes["student"] = {"backbone": CLIP_START + sources[1]}
    else:
        changes["denseclip"] = {"clip": sources[0]}
    return make_recipe(laid_over(recipe.model_dump(exclude_unset=True), changes), f"row {row.name}")
