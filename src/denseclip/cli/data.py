"""`denseclip data prepare` and `denseclip data check`: data sets made ready, and looked at."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from denseclip.cli import options as o

if TYPE_CHECKING:
    from denseclip.data.check import SplitCheck

app = typer.Typer(help="Prepare data sets and check that they are complete.", no_args_is_help=True)
MOST_LINES = 20  # of a list of bad files

Name = Annotated[str, typer.Argument(help="voc20, context59, coco-stuff, ade20k, cityscapes, ...")]
Data = Annotated[str, typer.Argument(help="The same names, or a data.json of your own, which needs no root.")]
Workers = Annotated[int, typer.Option(min=1, help="How many files at once.")]
Quick = Annotated[
    bool, typer.Option("--quick", help="Only whether the files are there, not whether they open.")
]


@app.command()
def prepare(
    name: Name,
    root: Annotated[Path, typer.Argument(help="Folder with the unpacked archives.")],
    workers: Workers = max(1, (os.cpu_count() or 1) - 1),
) -> None:
    """Convert a data set's masks to what is read, and write its lists of images; goes on where it stopped."""
    from denseclip.data.check import check as look
    from denseclip.data.prepare import prepare as run

    with o.counting(f"preparing {name}", "files") as progress:
        done = run(name, root, workers=workers, progress=progress)
    o.say(f"{done.written} files written, {done.kept} were there")
    for path in done.lists:
        o.say(f"list {path}")
    _list("could not be converted", done.failed)
    missing = [_against_published(name, one) for one in look(name, root, quick=True)]
    if done.failed or any(missing):
        raise typer.Exit(1)


def _against_published(name: str, found: "SplitCheck") -> bool:
    """Say whether a split is whole; returns whether files are missing that it lists."""
    if found.problem:
        o.say(f"{found.split}: {found.problem}")
    elif found.missing:
        said = f"{found.split}: {len(found.missing)} files are missing, the first is {found.missing[0]}"
        o.say(f"{said}: unpack its archives again, then prepare {name} again", "red")
    elif found.ok:
        o.say(f"{found.split}: {found.images:,} images, as published")
    else:
        said = f"{found.split}: {found.images:,} images, but {found.expected or 0:,} are published"
        o.say(f"{said}: unpack its archives again, then prepare {name} again", "yellow")
    return bool(found.missing)


@app.command()
def check(
    name: Data,
    root: Annotated[Path | None, typer.Argument(help="Folder that holds the data set's own.")] = None,
    quick: Quick = False,
    workers: Workers = 2,
) -> None:
    """Tell what is missing, how many images there are, and which cannot be used."""
    from denseclip.data.check import check as run

    with o.picture_progress() as progress:
        task = progress.add_task(f"checking {name}", total=None)  # of one split after the other
        found = run(
            name,
            root,
            quick=quick,
            workers=workers,
            progress=lambda n, of: progress.update(task, completed=n, total=of),
        )
    table = Table(title=name)
    for column in ("split", "images", "expected", "missing files", "unusable", ""):
        table.add_column(column, justify="left" if column in ("split", "") else "right")
    for one in found:
        expected = "-" if one.expected is None else str(one.expected)
        counts = (one.images, expected, len(one.missing), len(one.bad))
        table.add_row(
            one.split, *map(str, counts), Text("complete") if one.ok else Text("not complete", "red")
        )
    o.console.print(table)
    for one in found:
        if one.problem:
            o.say(f"{one.split}: {one.problem}")
        _list(f"missing in {one.split}", [str(path) for path in one.missing])
        _list(f"unusable in {one.split}", one.bad)
    if not all(one.ok for one in found):
        raise typer.Exit(1)


def _list(title: str, lines: list[str] | tuple[str, ...]) -> None:
    """Print the first lines of a list, if there are any, and how many more there are."""
    if lines:
        o.say(f"{title}: {len(lines)}", "red")
    for line in lines[:MOST_LINES]:
        o.say(f"  {line}")
    if len(lines) > MOST_LINES:
        o.say(f"  and {len(lines) - MOST_LINES} more")
