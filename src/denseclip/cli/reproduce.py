"""`denseclip reproduce`: a published table, from one command."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from denseclip.cli import options as o
from denseclip.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress

    from denseclip.reproduce.report import Report

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
    Literal["training-free", "trained", "all"], typer.Option(help="Which rows, of those that the table has.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for TABLE-SCALE.md, .csv, .json and .png.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder that holds the data sets (paper scale).")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="NAME=PATH: load this for a model of the table; may be repeated."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first images of each data set.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Count anew what was counted before.")]
Runs = Annotated[
    Path | None, typer.Option(help="Folder that keeps trainings; default: with the other caches.")
]
TimeLimit = Annotated[
    float | None, typer.Option(min=0, help="Stop after so many minutes, to go on another time.")
]
Filter = Annotated[str | None, typer.Option(help="Make only rows with this in their name or recipe.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="Train only the first seeds of each row.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Tell what is there, what is missing, and how long it takes; make nothing."
    ),
]


def reproduce(
    table: Name,
    scale: Scale = "mini",
    rows: Rows = "all",
    out: Out = Path("runs/reproduce"),
    data_root: DataRoot = None,
    model: Models = None,
    limit: Limit = None,
    no_cache: NoCache = False,
    runs: Runs = None,
    time_limit: TimeLimit = None,
    filter: Filter = None,
    seeds: Seeds = None,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    dry_run: DryRun = False,
) -> None:
    """Make a published table and hold its claims against the figures.

    Counts and trainings are kept: an interrupted run continues, tables share what they have in common, and a second
    one is done at once. A table is written as far as it is made. Where data or weights are missing, each is listed
    with what to put where, and the exit code is 2. On several GPUs: torchrun --no-python --nproc_per_node=8 denseclip
    reproduce ...
    """
    options = {**locals(), "model": _models(model or [])}
    from denseclip.reproduce import MissingError
    from denseclip.reproduce import reproduce as run

    try:
        with o.picture_progress() as progress:
            report = run(**options, watch=_bar(progress), say=_say)
    except MissingError as error:
        for line in error.lines:
            if os.environ.get("RANK", "0") == "0":
                print(f"denseclip: {line}", file=sys.stderr)
        raise typer.Exit(2) from None
    if report is not None:
        _show(report)
        _say(f"written: {out / f'{table}-{scale}'}.md, .csv, .json, .png")


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


def _bar(progress: "Progress") -> Callable[[str, int, int], None]:
    """One bar for each training and evaluation, the finished ones removed."""
    task = progress.add_task("preparing", total=None, visible=False)  # nothing to see of what fails at once
    shown = ""

    def update(title: str, done: int, total: int) -> None:
        nonlocal shown
        if title != shown:
            shown = title
            progress.reset(task, description=title, total=total, visible=True)
        progress.update(task, completed=done)

    return update


def _say(line: str) -> None:
    """A line of its own, never folded."""
    o.say(line)


def _show(report: "Report") -> None:
    """Rows, claims and named figures."""
    from denseclip.reproduce.report import figure_lines, figure_table

    header, names, rows = figure_table(report)
    table = Table(title=f"{report['title']} ({report['scale']})")
    for number, column in enumerate(header):
        table.add_column(column, justify="left" if number < names else "right")
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    o.console.print(table)
    for claim in report["claims"]:
        if claim["held"] is None:
            _say(f"{claim['claim']}: {claim['why']}")
            continue
        verdict = "held    " if claim["held"] else "not held"
        low, high = claim["interval"]
        _say(f"{verdict} {claim['claim']}: {claim['figures']['difference']:+.2f} [{low:.2f}, {high:.2f}]")
    for line in (*figure_lines(report), *report["notes"]):
        _say(line)
