"""A table with trained rows from one call, or from as many as it takes."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from denseclip.errors import UserError
from denseclip.evaluate.report import need_matplotlib
from denseclip.evaluate.reproduce.needs import have_embedded, require
from denseclip.evaluate.reproduce.report import Report, common
from denseclip.evaluate.reproduce.table import command_line, counts_folder
from denseclip.evaluate.reproduce.trained.files import write
from denseclip.evaluate.reproduce.trained.left import left_to_do
from denseclip.evaluate.reproduce.trained.protocol import training_protocol
from denseclip.evaluate.reproduce.trained.ratios import ratios
from denseclip.evaluate.reproduce.trained.report import TrainedLine, TrainedReport
from denseclip.evaluate.reproduce.trained.runs import Made, Place, Run, choose, runs_of
from denseclip.evaluate.reproduce.trained.verdicts import judge
from denseclip.evaluate.reproduce.trained.workshop import Watch, Workshop
from denseclip.recipes import ScaleName, recipe
from denseclip.recipes.trained import TrainedTable, published_rows, trained_table
from denseclip.text.cache import cache_folder
from denseclip.train.recipe import TrainRecipe

Say = Callable[[str], None]


def reproduce_trained(
    name: str,
    scale: ScaleName = "mini",
    *,
    free: Report | None = None,
    out: Path = Path("results"),
    root: Path | None = None,
    models: Mapping[str, str] | None = None,
    limit: int | None = None,
    fresh: bool = False,
    device: str = "auto",
    precision: str = "fp32",
    cache: Path | None = None,
    runs: Path | None = None,
    minutes: float | None = None,
    only: str | None = None,
    seeds: int | None = None,
    watch: Watch = lambda title, done, total: None,
    say: Say = lambda line: None,
) -> TrainedReport | None:
    """Train and evaluate the rows of a published table, and write what there is of it into `out`.

    name: see `trained_tables`. free: the table's rows without training, to be written with them. models: by
    published name, what to load instead of a teacher. limit: only the first images are evaluated. fresh: forget
    counts, not trainings. cache, runs: where counts and trainings are kept, by default with denseclip's other
    caches. minutes: stop between two steps when they are over. only: make rows with this in their names. seeds: make
    the first ones of each row. watch: told what is at work. say: told what is finished, fails, or is left.

    Whatever is finished, now or earlier, is in the report; None if nothing is. A training that fails leaves its row
    missing, and the others go on. Raises UserError for what cannot be used; MissingError, with a line for each
    thing, where data or weights are not there.
    """
    need_matplotlib()
    table, began = trained_table(name), time.monotonic()
    planned, notes = _planned(table, scale, models or {}, root)
    chosen = choose(planned, only, seeds)
    workshop = Workshop(
        scale,
        runs or cache_folder() / "training",
        cache or counts_folder(),
        root=root,
        limit=limit,
        fresh=fresh,
        device=device,
        precision=precision,
        stop=lambda: minutes is not None and time.monotonic() - began >= minutes * 60,
        watch=watch,
    )
    made, failed = _make(workshop, planned, chosen, say)
    say(left_to_do(workshop, planned, made))
    if not made:
        return None
    rows = "" if name != "table3" else "--rows all" if free else "--rows trained"
    command = command_line(name, scale, rows, models or {}, limit)
    notes += [f"Failed: {line}" for line in failed]
    if limit is not None:
        notes.append(f"Only the first {limit} images were evaluated.")
    report = _report(table, scale, command, planned, made, notes)
    write(report, free, out)
    return report


def _planned(
    table: TrainedTable, scale: ScaleName, models: Mapping[str, str], root: Path | None
) -> tuple[list[Run], list[str]]:
    """The runs that can be made here, after checking that what they need is there, and notes.

    Rows of an embedded teacher that this installation lacks are left out.
    """
    stand_ins = recipe("table3").scales[scale].models
    found = runs_of(table, scale, {stand_ins.get(name, name): path for name, path in models.items()})
    _check_models(table, scale, models, stand_ins)
    there = [run for run in found if all(map(have_embedded, run.recipe.clips))]
    chosen = there or found
    data = dict.fromkeys(run.recipe.data.val for run in chosen) if scale == "paper" else {}
    trained = [run.recipe for run in chosen if run.seed is not None]
    require(
        list(dict.fromkeys(clip for run in chosen for clip in run.recipe.clips)),
        [name for name in data if name],
        root,
        splits=list(dict.fromkeys((one.data.train, one.data.split) for one in trained)) if data else [],
        backbones=list(dict.fromkeys(one.student.backbone for one in trained if _starts_from_imagenet(one))),
    )
    lacking = dict.fromkeys(clip for run in found for clip in run.recipe.clips if not have_embedded(clip))
    notes = [table.note] if table.note else []
    return there, notes + [f"{name} is not in this installation; its rows are left out." for name in lacking]


def _starts_from_imagenet(recipe: TrainRecipe) -> bool:
    return recipe.system == "maskclip+" and recipe.student.pretrained and not recipe.student.from_clip


def _check_models(
    table: TrainedTable, scale: ScaleName, models: Mapping[str, str], stand_ins: Mapping[str, str]
) -> None:
    """UserError for the name of a model that no row has."""
    clips = {clip for run in runs_of(table, scale, {}) for clip in run.recipe.clips}
    names = {shown: name for name, shown in stand_ins.items()}
    for name in models:
        if stand_ins.get(name, name) not in clips:
            known = ", ".join(sorted(names.get(clip, clip) for clip in clips))
            raise UserError(f"{table.name} has no model {name!r}; it has {known}")


def _make(
    workshop: Workshop, planned: Sequence[Run], chosen: Sequence[Run], say: Say
) -> tuple[dict[Place, list[Made]], list[str]]:
    """Every chosen run, and of the others those that are trained already, by place; and what failed."""
    made: dict[Place, list[Made]] = {}
    failed = []
    for run in planned:
        begun = time.monotonic()
        before = workshop.finished(run)
        try:
            one = workshop.make(run, training=run in chosen)
        except UserError as error:
            failed.append(f"{run.title}: {error}")
            say(failed[-1])
            continue
        if one is not None:
            made.setdefault(run.place, []).append(one)
            if not before:
                say(f"{run.title}: trained and evaluated, {(time.monotonic() - begun) / 60:.1f} minutes")
    return made, failed


def _report(
    table: TrainedTable,
    scale: ScaleName,
    command: str,
    planned: Sequence[Run],
    made: Mapping[Place, Sequence[Made]],
    notes: list[str],
) -> TrainedReport:
    shared: dict[str, Any] = common([one.result for several in made.values() for one in several])
    places = [(row.name, row.data) for row in table.rows]
    by_place = {place: [run for run in planned if run.place == place] for place in places}
    rows = {(row.name, row.data): row for row in table.rows}
    verdicts = judge(table, planned, made)
    lines = [
        TrainedLine.of(runs, made.get(place, ()), table.published(rows[place]), shared)
        for place, runs in by_place.items()
        if runs
    ]
    return TrainedReport(
        table=table,
        scale=scale,
        command=command,
        protocol={**training_protocol(lines), **shared},
        lines=lines,
        others=_others(table),
        claims=verdicts.claims,
        open=verdicts.open,
        ratios=ratios(table, made),
        notes=notes,
    )


def _others(table: TrainedTable) -> dict[tuple[str, str], Mapping[str, str]]:
    """Figures of other papers' methods, by data set and method, in the table's order."""
    data = dict.fromkeys(row.data for row in table.rows)
    return {
        (place, method): values
        for place in data
        for method in table.others
        for key, values in published_rows().items()
        if key[:3] == (table.name, place, method)
    }
