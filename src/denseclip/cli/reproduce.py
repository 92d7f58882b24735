"""`denseclip reproduce`: a published table, from one command."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

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
        help="table1, table2a, table2b, table2c, table3, table4, table5, table6, kspd, variants, trainingfree, "
        "ade20k or coco.",
        show_default=False,
        metavar="TABLE",
    ),
]


@o.command(
    *(
        "scale",
        "rows",
        "out",
        "data_root",
        "weights",
        "limit",
        "no_cache",
        "runs",
        "time_limit",
        "filter",
        "seeds",
    ),
    *("device", "precision", "dry_run"),
)
def reproduce(table: Name, **options: Unpack[o.Options]) -> "o.Done[Report | None]":
    """Make a published table and hold its claims against the figures.

    Counts and trainings are kept: an interrupted run continues, tables share what they have in common, and a second
    one is done at once. A table is written as far as it is made. Where data or weights are missing, each is listed
    with what to put where, and the exit code is 2. On several GPUs: torchrun --no-python --nproc_per_node=8 denseclip
    reproduce ...
    """
    written: dict[str, Any] = {**options}
    written["model"] = _models(written.pop("weights", None) or [])
    out = Path(written.setdefault("out", Path("runs/reproduce")))
    from denseclip.reproduce import MissingError
    from denseclip.reproduce import reproduce as run

    plan: list[str] = []

    def say(line: str) -> None:
        plan.append(line)
        _say(line)

    try:
        with o.picture_progress() as progress:
            report = run(table, **written, watch=_bar(progress), say=say)
    except MissingError as error:
        for line in error.lines:
            if os.environ.get("RANK", "0") == "0":
                print(f"denseclip: {line}", file=sys.stderr)
        raise typer.Exit(2) from None
    if report is not None:
        _show(report)
        scale = report["scale"]
        made = [out / f"{table}-{scale}.{kind}" for kind in ("md", "csv", "json", "png")]
        _say(f"written: {out / f'{table}-{scale}'}.md, .csv, .json, .png")
        return o.Done(report, made, figures={"rows": report["rows"], "claims": report["claims"]})
    return o.Done(None, figures={"plan": plan})


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
