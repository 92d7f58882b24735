"""The console of all commands, and results on it: what a user wrote is printed as it is, never as markup."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import TextColumn
from rich.status import Status
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from denseclip.evaluate.result import Comparison, Result


console = Console(markup=False, highlight=False, emoji=False)


@contextmanager
def silent() -> Iterator[None]:
    """Print nothing, for those who call a command from Python."""
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


def say(text: str, style: str = "") -> None:
    """Print a line, however long."""
    console.print(Text(text, style), soft_wrap=True)


def told(what: str, line: str, style: str = "red") -> None:
    """Print a line that begins with a colored word, such as "skipped"."""
    console.print(Text.assemble((what, style), " ", line), soft_wrap=True)


def status(text: str) -> Status:
    """A line that is shown while something lasts."""
    return console.status(Text(text))


def text_column(text: str) -> TextColumn:
    """A column of a progress bar."""
    return TextColumn(text, markup=False)


MOST_ROWS = 200  # of a table on the terminal


def show(result: "Result") -> None:
    """Print protocol, classes and summary of a result, and what was skipped."""
    console.print(protocol_table(result.protocol.describe()))
    rows = [row for row in result.table() if row.pixels or not math.isnan(row.iou)]
    table = Table(title=f"{len(rows)} of {len(result.classes)} classes occur, in percent")
    for column in ("class", "IoU", "accuracy", "precision", "pixels"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for row in rows[:MOST_ROWS]:
        name = f"{row.name} (unseen)" if row.unseen else row.name
        table.add_row(name, *map(percent, (row.iou, row.accuracy, row.precision)), f"{row.pixels:,}")
    console.print(table)
    if len(rows) > MOST_ROWS:
        say(f"{len(rows) - MOST_ROWS} more classes are in classes.csv of --out.")
    console.print(summary_table([result]))
    for line in result.skipped:
        told("skipped", line)
    speed = f", {result.images / result.seconds:.1f} images/s" if result.seconds else ""
    say(f"{result.images} images counted, {len(result.skipped)} skipped{speed}")


def protocol_table(protocol: dict[str, Any]) -> Table:
    """Everything the figures depend on."""
    table = Table(title="protocol", show_header=False)
    table.add_column(style="cyan")
    table.add_column(overflow="fold")
    for key, value in protocol.items():
        table.add_row(key, str(value))
    return table


def summary_table(results: list["Result"]) -> Table:
    """One line a model and group of classes."""
    table = Table(title="in percent")
    table.add_column("model", overflow="fold")
    for column in ("classes", "mIoU", "pAcc", "mAcc", "hIoU"):
        table.add_column(column, justify="left" if column == "classes" else "right")
    for result in results:
        summary = result.summary()
        for group, suffix in (("all", ""), ("seen", "(S)"), ("unseen", "(U)")):
            figures = [summary.get(f"{name}{suffix}") for name in ("mIoU", "pAcc", "mAcc")]
            figures.append(None if suffix else summary.get("hIoU"))
            if figures[0] is not None:
                shown = ("" if value is None else percent(value) for value in figures)
                table.add_row("" if suffix else result.protocol.model, group, *shown)
    return table


def show_comparison(comparison: "Comparison") -> None:
    """Print two models side by side, and their differences with intervals."""
    names = [result.protocol.model for result in (comparison.first, comparison.second)]
    table = Table(title="IoU in percent")
    for column in ("class", *names, "difference"):
        table.add_column(column, justify="left" if column == "class" else "right", overflow="fold")
    for name, first, second in comparison.class_rows()[:MOST_ROWS]:
        table.add_row(name, percent(first), percent(second), percent(first - second, sign="+"))
    console.print(table)
    console.print(summary_table([comparison.first, comparison.second]))
    for name, one in comparison.differences.items():
        verdict = "significant" if one.significant else "may be chance"
        say(
            f"{name}: first minus second {one.value * 100:+.2f}, 95 % interval over images "
            f"{one.low * 100:+.2f} to {one.high * 100:+.2f}: {verdict}",
        )


def percent(value: float, sign: str = "") -> str:
    """Two decimals, or a dash where a class does not occur."""
    return "-" if math.isnan(value) else f"{value:{sign}.2f}"
