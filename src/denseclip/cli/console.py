"""The console of all commands: what a user wrote is printed as it is, never as markup."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import TextColumn
from rich.status import Status
from rich.text import Text

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
