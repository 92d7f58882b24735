"""`denseclip reproduce`: a published table, from one command."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from denseclip.cli import options as o
from denseclip.cli import reproduced
from denseclip.errors import UserError

if TYPE_CHECKING:
    from denseclip.evaluate.reproduce import Report
    from denseclip.evaluate.reproduce.trained import TrainedReport

Name = Annotated[
    str,
    typer.Argument(
        help="table1, table2a, table2b, table2c, table3, table4, table5, table6, kspd, variants, ade20k or coco.",
        show_default=False,
        metavar="TABLE",
    ),
]
Scale = Annotated[
    Literal["mini", "paper"],
    typer.Option(help="mini: tiny CLIPs on sticker scenes; paper: as published, on real data."),
]
Rows = Annotated[
    Literal["training-free", "trained", "all"],
    typer.Option(help="Which rows, of those that the table has."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for TABLE-SCALE.md, .csv, .json and .png.")]
Root = Annotated[Path | None, typer.Option(help="Folder that holds the data sets (paper scale).")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="NAME=PATH: load this for a model of the table; may be repeated."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first images of each data set.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Count anew what was counted before.")]
Runs = Annotated[
    Path | None, typer.Option(help="Folder that keeps trainings; default: with the other caches.")
]
Minutes = Annotated[
    float | None, typer.Option(min=0, help="Stop training after so many minutes, to go on another time.")
]
Only = Annotated[str | None, typer.Option(help="Train only rows with this in their name or recipe.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="Train only the first seeds of each row.")]


def reproduce(
    table: Name,
    scale: Scale = "mini",
    rows: Rows = "all",
    out: Out = Path("results"),
    root: Root = None,
    model: Models = None,
    limit: Limit = None,
    fresh: Fresh = False,
    runs: Runs = None,
    minutes: Minutes = None,
    only: Only = None,
    seeds: Seeds = None,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
) -> None:
    """Run a published table and hold its claims against the figures.

    Counts and trainings are kept: an interrupted run continues, tables share what they have in common, and a second
    one is done at once. A table is written as far as it is made. Where data or weights are missing, each is listed
    with what to put where, and the exit code is 2.
    """
    from denseclip.evaluate.reproduce import MissingError

    free, trained = _parts(table, rows)
    shared = {
        "root": root,
        "models": _models(model or []),
        "limit": limit,
        "fresh": fresh,
        "device": device,
        "precision": precision,
    }
    try:
        without = _free(table, scale, None if trained else out, shared) if free else None
        if trained:
            own = {"runs": runs, "minutes": minutes, "only": only, "seeds": seeds}
            made = _trained(table, scale, without, out, {**shared, **own})
    except MissingError as error:
        for line in error.lines:
            print(f"denseclip: {line}", file=sys.stderr)
        raise typer.Exit(2) from None
    if without is not None:
        reproduced.show_free(without)
    if not trained:
        reproduced.say_written(f"{table}-{scale}", out)
    elif made is not None:
        reproduced.show_trained(made)
        reproduced.say_written(f"{table}-{scale}", out)


def _parts(table: str, rows: str) -> tuple[bool, bool]:
    """Whether rows without training are made, and trained ones; UserError if the table has none of those."""
    from denseclip.recipes import TABLES
    from denseclip.recipes.trained import trained_tables

    known = sorted({*TABLES, *trained_tables()})
    if table not in known:
        raise UserError(f"there is no table {table!r}; choose one of {', '.join(known)}")
    free = table in TABLES and rows != "trained"
    trained = table in trained_tables() and rows != "training-free"
    if not (free or trained):
        raise UserError(f"{table} has no {rows} rows; leave out --rows")
    return free, trained


def _free(
    table: str, scale: Literal["mini", "paper"], out: Path | None, shared: Mapping[str, Any]
) -> "Report":
    from denseclip.evaluate.reproduce import reproduce as run

    with o.picture_progress() as progress:
        return run(table, scale, out=out, progress=reproduced.row_progress(progress), **shared)


def _trained(
    table: str, scale: Literal["mini", "paper"], free: "Report | None", out: Path, given: Mapping[str, Any]
) -> "TrainedReport | None":
    from denseclip.evaluate.reproduce.trained import reproduce_trained

    with o.picture_progress() as progress:
        watch = reproduced.run_progress(progress)
        return reproduce_trained(table, scale, free=free, out=out, watch=watch, say=reproduced.say, **given)


def _models(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, sign, source = text.partition("=")
        if not (name and sign and source):
            raise UserError(
                f"model {text!r} is not understood; write NAME=PATH, such as RN50=weights/RN50.pt"
            )
        pairs[name] = source
    return pairs
