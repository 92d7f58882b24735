"""What `denseclip reproduce` prints."""

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from denseclip.cli import options as o

if TYPE_CHECKING:
    from rich.progress import Progress

    from denseclip.evaluate.reproduce import Report
    from denseclip.evaluate.reproduce.claims import Claim
    from denseclip.evaluate.reproduce.table import RowProgress
    from denseclip.evaluate.reproduce.trained import TrainedReport
    from denseclip.evaluate.reproduce.trained.workshop import Watch


def row_progress(progress: "Progress") -> "RowProgress":
    """One bar for each row, the finished ones removed."""
    show = _one_bar(progress)
    return lambda title, number, done, total: show(number, title, done, total)


def run_progress(progress: "Progress") -> "Watch":
    """One bar for each training and evaluation, the finished ones removed."""
    show = _one_bar(progress)
    return lambda title, done, total: show(title, title, done, total)


def _one_bar(progress: "Progress") -> Callable[[Hashable, str, int, int], None]:
    task = progress.add_task("preparing", total=None, visible=False)  # nothing to see of what fails at once
    shown: Hashable = None

    def update(key: Hashable, title: str, done: int, total: int) -> None:
        nonlocal shown
        if key != shown:
            shown = key
            progress.reset(task, description=title, total=total, visible=True)
        progress.update(task, completed=done)

    return update


def say(line: str) -> None:
    """A line of its own, never folded."""
    o.console.print(line, soft_wrap=True, highlight=False, markup=False)


def say_written(stem: str, out: Path) -> None:
    """Where the files are."""
    say(f"written: {out / stem}.md, .csv, .json, .png")


def show_free(report: "Report") -> None:
    """Rows and claims of a table without training."""
    table = Table(title=f"{report.recipe.title} ({report.scale})")
    for column in ("model", "data", "method", "mIoU", "95 %", "published"):
        table.add_column(column, justify="left" if column in ("model", "data", "method") else "right")
    for line in report.lines:
        beside = line.row.published.value if line.row.published else ""
        interval = f"{line.low:.1f} to {line.high:.1f}"
        row = (line.row.model, line.row.data, line.row.method.name, f"{line.miou:.2f}", interval, beside)
        table.add_row(*row)
    o.console.print(table)
    _show_claims(report.claims, report.notes)


def show_trained(report: "TrainedReport") -> None:
    """Rows and claims of a table with training."""
    table = Table(title=f"{report.table.title} ({report.scale})")
    for column in ("data", "method", "teacher", "runs"):
        table.add_column(column)
    for metric in report.table.metrics:
        table.add_column(metric, justify="right")
    for line in report.lines:
        cells = [_cell(line.mean(metric), line.spread(metric)) for metric in report.table.metrics]
        table.add_row(line.data, line.row.method, line.teacher, line.missing or str(len(line.made)), *cells)
    o.console.print(table)
    _show_claims(report.claims, report.notes)
    for text, names in report.open:
        say(f"not measured {text}: {', '.join(names)} not made yet")
    for name, (value, beside) in report.ratios.items():
        say(f"{name}: {value:.3f}" + ("" if beside is None else f" (published: {beside:.3f})"))


def _cell(mean: float | None, spread: float | None) -> str:
    if mean is None:
        return ""
    return f"{mean:.2f}" + ("" if spread is None else f" ± {spread:.2f}")


def _show_claims(claims: "Sequence[Claim]", notes: Sequence[str]) -> None:
    for claim in claims:
        low, high = claim.interval
        verdict = "[green]held[/green]    " if claim.held else "[red]not held[/red]"
        difference = f"{claim.figures['difference']:+.2f} \\[{low:.2f}, {high:.2f}]"
        o.console.print(f"{verdict} {claim.claim}: {difference}", highlight=False, soft_wrap=True)
    for note in notes:
        say(note)
