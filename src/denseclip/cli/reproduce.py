"""`denseclip reproduce`: a published table, from one command."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from denseclip.cli import options as o
from denseclip.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress

    from denseclip.evaluate.reproduce import Report
    from denseclip.evaluate.reproduce.table import RowProgress

Name = Annotated[
    str, typer.Argument(help="table3, table4, table5, kspd or variants.", show_default=False, metavar="TABLE")
]
Scale = Annotated[
    Literal["mini", "paper"],
    typer.Option(help="mini: tiny CLIPs on sticker scenes; paper: as published, on real data."),
]
Rows = Annotated[Literal["training-free", "trained", "all"], typer.Option(help="Which rows of the table.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for TABLE-SCALE.md, .csv, .json and .png.")]
Root = Annotated[Path | None, typer.Option(help="Folder that holds the data sets (paper scale).")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="NAME=PATH: load this for a model of the table; may be repeated."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first images of each data set.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Count anew what was counted before.")]


def reproduce(
    table: Name,
    scale: Scale = "mini",
    rows: Rows = "training-free",
    out: Out = Path("results"),
    root: Root = None,
    model: Models = None,
    limit: Limit = None,
    fresh: Fresh = False,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
) -> None:
    """Run a published table and hold its claims against the figures.

    Counts are kept, so that an interrupted run continues and a second one is done at once. Where data or weights
    are missing, each is listed with what to put where, and the exit code is 2.
    """
    from denseclip.evaluate.reproduce import MissingError
    from denseclip.evaluate.reproduce import reproduce as run

    try:
        with o.picture_progress() as progress:
            report = run(
                table,
                scale,
                rows=rows,
                out=out,
                root=root,
                models=_models(model or []),
                limit=limit,
                fresh=fresh,
                device=device,
                precision=precision,
                progress=_progress(progress),
            )
    except MissingError as error:
        for line in error.lines:
            print(f"denseclip: {line}", file=sys.stderr)
        raise typer.Exit(2) from None
    _print(report, out)


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


def _progress(progress: "Progress") -> "RowProgress":
    """One bar for each row, the finished ones removed."""
    task = progress.add_task("preparing", total=None, visible=False)  # nothing to see of what fails at once
    shown = -1

    def update(title: str, number: int, done: int, total: int) -> None:
        nonlocal shown
        if number != shown:
            shown = number
            progress.reset(task, description=title, total=total, visible=True)
        progress.update(task, completed=done)

    return update


def _print(report: "Report", out: Path) -> None:
    table = Table(title=f"{report.recipe.title} ({report.scale})")
    for column in ("model", "data", "method", "mIoU", "95 %", "published"):
        table.add_column(column, justify="left" if column in ("model", "data", "method") else "right")
    for line in report.lines:
        beside = line.row.published.value if line.row.published else ""
        interval = f"{line.low:.1f} to {line.high:.1f}"
        row = (line.row.model, line.row.data, line.row.method.name, f"{line.miou:.2f}", interval, beside)
        table.add_row(*row)
    o.console.print(table)
    for claim in report.claims:
        low, high = claim.interval
        verdict = "[green]held[/green]    " if claim.held else "[red]not held[/red]"
        difference = f"{claim.figures['difference']:+.2f} \\[{low:.2f}, {high:.2f}]"
        o.console.print(f"{verdict} {claim.claim}: {difference}", highlight=False, soft_wrap=True)
    for note in report.notes:
        o.console.print(note, soft_wrap=True, highlight=False)
    o.console.print(f"written: {out / report.stem}.md, .csv, .json, .png", soft_wrap=True, highlight=False)
