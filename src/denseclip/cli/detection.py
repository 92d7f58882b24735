"""`denseclip evaluate` and `train`, of detectors."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from denseclip.cli import options as o
from denseclip.cli.results import percent, protocol_table
from denseclip.errors import UserError

if TYPE_CHECKING:
    from denseclip.evaluate.detection import DetectionFigures
    from denseclip.train.recipe import TrainRecipe


def evaluate(
    model: str | Path,
    data: str,
    root: Path | None,
    split: str | None,
    limit: int | None,
    given: dict[str, Any],
    out: Path | None,
    device: str,
    *,
    skip_bad: bool = False,
) -> "DetectionFigures":
    """Evaluate a detector, print, and write with `out`. given: options that the user wrote.

    Raises UserError for an option that detectors do not have, and for results that are there already.
    """
    from denseclip.cli.detect import load
    from denseclip.data.open_things import open_things
    from denseclip.evaluate.detection import evaluate_detector
    from denseclip.evaluate.plots import EXAMPLES, draw_detections

    strange = [name for name in given if name != "resize"]
    if strange:
        raise UserError(
            f"--{strange[0].replace('_', '-')} goes with models that segment; leave it out for {model}"
        )
    if out is not None and (out / "result.json").exists():
        raise UserError(f"{out} has results already; give another --out")
    dataset = open_things(data, root, split)
    with o.status(f"loading {model}"):
        detector = load(model, given.get("resize"), device)
    with o.counting("evaluating") as progress:
        result = evaluate_detector(detector, dataset, limit=limit, skip_bad=skip_bad, progress=progress)
    show(result)
    if out is not None:
        result.write(out)
        draw_detections(detector, dataset, out / EXAMPLES, images=len(dataset.first(limit)))
        o.say(f"written to {out}")
    return result


def evaluate_trained(
    checkpoint: Path, recipe: "TrainRecipe", root: Path | None, device: str, out: Path
) -> None:
    """Evaluate on what the recipe says; results of an earlier call give way."""
    assert recipe.data.val is not None
    (out / "result.json").unlink(missing_ok=True)
    part, resize = recipe.data, recipe.evaluation.resize
    given = {} if resize is None else {"resize": resize}
    evaluate(checkpoint, recipe.data.val, root, part.val_split, part.val_images, given, out, device)


def show(result: "DetectionFigures") -> None:
    """Print protocol, classes, average precisions, and what was skipped."""
    o.console.print(protocol_table(result.protocol.describe()))
    kinds = list(next(iter(result.classes.values()), {}))
    table = Table(title="of each class, in percent")
    for column in ("class", *kinds):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, figures in result.classes.items():
        table.add_row(name, *(percent(figures[kind]) for kind in kinds))
    o.console.print(table)
    for kind in ("box", "mask"):
        shown = [(name, v) for name, v in result.figures.items() if name.startswith(kind)]
        if shown:
            o.say(", ".join(f"{name} {percent(value)}" for name, value in shown))
    for line in result.skipped:
        o.told("skipped", line)
    speed = f", {result.images / result.seconds:.1f} images/s" if result.seconds else ""
    o.say(f"{result.images} images counted, {len(result.skipped)} skipped{speed}")
