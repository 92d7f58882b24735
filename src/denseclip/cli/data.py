"""`denseclip data prepare` and `denseclip data check`: data sets made ready, and looked at."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Unpack

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


@o.command("workers")
def prepare(
    name: Name,
    root: Annotated[Path, typer.Argument(help="Folder with the unpacked archives.")],
    **options: Unpack[o.Options],
) -> o.Done[list[Path]]:
    """Convert a data set's masks to what is read, and write its lists of images; goes on where it stopped."""
    from denseclip.data.check import check as look
    from denseclip.data.prepare import prepare as run

    with o.counting(f"preparing {name}", "files") as progress:
        done = run(
            name, root, workers=options.get("workers") or max(1, (os.cpu_count() or 1) - 1), progress=progress
        )
    o.say(f"{done.written} files written, {done.kept} were there")
    for path in done.lists:
        o.say(f"list {path}")
    _list("could not be converted", done.failed)
    splits = look(name, root, quick=True)
    missing = [f"{one.split}: files are missing" for one in splits if _against_published(name, one)]
    figures = {"written": done.written, "kept": done.kept}
    return o.Done(list(done.lists), list(done.lists), figures=figures, failed=[*done.failed, *missing])


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


@o.command("quick", "workers")
def check(
    name: Data,
    root: Annotated[Path | None, typer.Argument(help="Folder that holds the data set's own.")] = None,
    **options: Unpack[o.Options],
) -> o.Done[bool]:
    """Tell what is missing, how many images there are, and which cannot be used."""
    from denseclip.data.check import check as run

    with o.picture_progress() as progress:
        task = progress.add_task(f"checking {name}", total=None)  # of one split after the other
        found = run(
            name,
            root,
            quick=options.get("quick", False),
            workers=options.get("workers") or 2,
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
    figures = {
        one.split: {"images": one.images, "missing": len(one.missing), "unusable": len(one.bad)}
        for one in found
    }
    bad = [f"{one.split} is not complete" for one in found if not one.ok]
    return o.Done(not bad, figures=figures, failed=bad)


def _list(title: str, lines: list[str] | tuple[str, ...]) -> None:
    """Print the first lines of a list, if there are any, and how many more there are."""
    if lines:
        o.say(f"{title}: {len(lines)}", "red")
    for line in lines[:MOST_LINES]:
        o.say(f"  {line}")
    if len(lines) > MOST_LINES:
        o.say(f"  and {len(lines) - MOST_LINES} more")


for _one in (prepare, check):
    app.command(_one.name)(_one.shell())
