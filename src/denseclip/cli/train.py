"""`denseclip train`: a recipe, a model."""

import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import typer
from rich.progress import BarColumn, Progress
from rich.table import Table

from denseclip.cli import detect
from denseclip.cli import options as o
from denseclip.cli.doctor import recipes

if TYPE_CHECKING:
    from denseclip.train.loop import StepLog
    from denseclip.train.recipe import TrainRecipe
    from denseclip.train.training import Outcome

RecipeName = Annotated[
    str, typer.Argument(help="A recipe's name, or a .toml file; `list` shows the names.", show_default=False)
]
Changes = Annotated[
    list[str] | None,
    typer.Argument(help="key=value, such as steps=200 or data.images=100.", show_default=False),
]


@o.command("out", "data_root", "set", "time_limit", "dry_run", "strategy", "no_evaluation", "device")
def train(
    recipe: RecipeName, changes: Changes = None, **options: Unpack[o.Options]
) -> "o.Done[Outcome | None]":
    """Train by a recipe; an interrupted run goes on when the same command is given again.

    Writes last.pt (and best.pt), panels and TensorBoard scalars. The checkpoint goes wherever a model goes:
    `denseclip segment PICTURES --model runs/RECIPE/last.pt`.
    """
    from denseclip.train.recipe import of_recipe, read_recipe

    given = o.values(options)
    root, device = given["data_root"], given["device"]
    if recipe == "list":
        recipes.function()
        return o.Done(None)
    chosen = read_recipe(recipe, [*(changes or ()), *(given["set"] or ())])
    if given["dry_run"]:
        _show(chosen, root, device)
        for option, reason in of_recipe(Path(recipe).stem).items():
            o.told("differs on purpose", f"{option}: {reason}", "yellow")
        return o.Done(None)
    folder = given["out"] or Path("runs") / Path(recipe).stem
    outcome = run(
        chosen, folder, root=root, device=device, strategy=given["strategy"], minutes=given["time_limit"]
    )
    last = outcome.finished and chosen.data.val is not None and not given["no_evaluation"]
    if last and is_first_process():
        evaluate(outcome.checkpoint, chosen, root, device, folder / "evaluation")
    return o.Done(outcome, [outcome.checkpoint], figures=figures_of(outcome))


def figures_of(outcome: "Outcome") -> dict[str, Any]:
    """What came of a training; images that were skipped are listed, and no failure."""
    known = {name: getattr(outcome, name) for name in ("steps", "finished", "seconds")}
    return known | {"skipped": list(outcome.skipped)}


def is_first_process() -> bool:
    """Whether this process is the one that prints."""
    return os.environ.get("RANK", "0") == "0"


def run(
    recipe: "TrainRecipe",
    folder: Path,
    *,
    root: Path | None,
    device: str,
    strategy: str = "auto",
    minutes: float | None = None,
) -> "Outcome":
    """Train with a progress line, for so many minutes, and say what came of it."""
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    from denseclip.train.training import train as start

    quiet = not is_first_process()
    columns = (o.text_column("{task.description}"), BarColumn(20), o.text_column("{task.fields[told]}"))
    with Progress(
        *columns, console=o.console, disable=quiet or not o.console.is_terminal, transient=True
    ) as progress:
        bar = progress.add_task("loading", total=recipe.steps, told="")

        def on_step(told: "StepLog") -> None:
            line = (
                f"step {told.step}/{recipe.steps} loss {told.values['loss']:.4f} "
                f"{told.images_per_second:.1f} images/s {_time(told.seconds_left)} left"
            )
            progress.update(bar, completed=told.step, description=told.phase, told=line)
            every = max(1, recipe.steps // 20)
            if not o.console.is_terminal and not quiet and told.step % every == 0:
                o.say(f"{told.phase}: {line}")

        def late() -> bool:
            return time.monotonic() > end

        outcome = start(
            recipe,
            folder,
            root=root,
            device=device,
            strategy=strategy,
            on_step=on_step,
            stop=late,
        )
    if not quiet:
        for line in outcome.skipped:
            o.told("skipped", line)
        for line in outcome.warnings:
            o.told("warning", line, "yellow")
        o.say(f"ran in {outcome.precision}")
        if not outcome.finished:
            o.say("the time is up: give the same command again to go on")
        done = f"{outcome.steps} steps" if outcome.steps else "nothing was left to do"
        o.say(f"{done}, {_time(outcome.seconds)} in all: {outcome.checkpoint}")
        told = f"use it: denseclip segment PICTURES --model {outcome.checkpoint}"
        o.say(told)
    return outcome


def evaluate(checkpoint: Path, recipe: "TrainRecipe", root: Path | None, device: str, out: Path) -> None:
    """Evaluate on what the recipe says, print and write the tables."""
    if recipe.system == "detection":
        detect.evaluate_trained(checkpoint, recipe, root, device, out)
        return
    from denseclip.cli.console import show
    from denseclip.data.opening import open_dataset
    from denseclip.evaluate.plots import STATE, write_report
    from denseclip.evaluate.run import evaluate as count
    from denseclip.evaluate.run import segmenter_for

    assert recipe.data.val is not None
    dataset = open_dataset(recipe.data.val, root, recipe.data.val_split)
    settings = recipe.evaluation.model_dump(exclude_none=True)
    segmenter = segmenter_for(dataset.spec, checkpoint, device=device, precision=recipe.precision, **settings)
    with o.counting("evaluating") as progress:
        limit = recipe.data.val_images
        result = count(segmenter, dataset, state=out / STATE, limit=limit, progress=progress)
    show(result)
    write_report(result, out)


def _show(recipe: "TrainRecipe", root: Path | None, device: str) -> None:
    """The resolved recipe and its cost, measured on two crops; the images need not be there."""
    import torch

    from denseclip.clip.device import pick_device
    from denseclip.train.batches import Share
    from denseclip.train.estimate import estimate, reading_rate
    from denseclip.train.progress import flat
    from denseclip.train.tasks import build_task, make_batches
    from denseclip.train.training import training_data_or_words

    table = Table(title=recipe.title or "recipe", show_header=False)
    table.add_column(style="cyan")
    table.add_column(overflow="fold")
    for key, value in flat(recipe.model_dump(mode="json")).items():
        table.add_row(key, str(value))
    o.console.print(table)
    dataset = training_data_or_words(recipe, root)
    torch.manual_seed(recipe.seed)
    new = recipe.model_copy(update={"student": recipe.student.model_copy(update={"pretrained": False})})
    place = pick_device(device)
    task = build_task(new, dataset, place)
    cost = estimate(task, recipe, place)
    o.say(
        f"{len(dataset) or 'no'} images; {cost.parameters / 1e6:.1f} M parameters are trained; about "
        f"{cost.memory / 2**30:.1f} GiB in fp32; about {_time(cost.seconds)} on this machine's {place}",
    )
    if len(dataset):
        few = min(recipe.batch, 4)
        reading = reading_rate(make_batches(recipe, dataset, task, Share(few), 0), few) * max(
            1, recipe.workers
        )
        limit = "reading, give more workers" if reading < cost.rate else "the network"
        o.say(
            f"{recipe.workers} workers read {reading:.1f} images/s, the network learns {cost.rate:.1f}: "
            f"what limits the run is {limit}"
        )


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
