"""Options that several commands share, and how they become a Segmenter."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeRemainingColumn,
)
from rich.text import Text

from denseclip.cli.command import Done as Done
from denseclip.cli.command import command as command
from denseclip.cli.command import values as values
from denseclip.cli.console import console as console
from denseclip.cli.console import say as say
from denseclip.cli.console import status as status
from denseclip.cli.console import text_column as text_column
from denseclip.cli.console import told as told
from denseclip.cli.registry import METHOD as METHOD
from denseclip.cli.registry import Options as Options
from denseclip.errors import UserError

if TYPE_CHECKING:
    from denseclip.segment.segmenter import Segmenter


def settings(options: Options) -> dict[str, Any]:
    """The keywords of `denseclip.load` among the options that were written."""
    found: dict[str, Any] = {name: value for name, value in options.items() if name in METHOD}
    if found.get("ks_norm") == "auto":
        del found["ks_norm"]
    return found | ({"scales": parse_scales(found["scales"])} if "scales" in found else {})


@dataclass(frozen=True)
class ModelOptions:
    """What the options above were set to."""

    model: str
    classes: str | None
    settings: dict[str, Any]
    device: str = "auto"
    precision: str = "auto"

    @classmethod
    def of(cls, options: Options) -> Self:
        """From the options that were written."""
        given = values(options)
        return cls(given["model"], given["classes"], settings(options), given["device"], given["precision"])

    def identity(self) -> dict[str, Any]:
        """What the ids of a mask mean and where they come from, without loading the model."""
        from denseclip.text import ClassPrompts

        words = None if self.classes is None else ClassPrompts.parse(self.classes).to_dict()
        return {"classes": words, "model": self.model, **self.settings, "precision": self.precision}

    def load(self) -> "Segmenter":
        """The Segmenter they describe."""
        import denseclip
        from denseclip.models.checkpoint import SUFFIXES, trained_kind

        if self.classes is None and not trained_kind(self.model):
            if Path(self.model).suffix in SUFFIXES and not Path(self.model).is_file():
                raise UserError(f"there is no file {self.model}; check the path")
            raise UserError('no words are given; add --classes "cat, sofa, grass"')
        with status(f"loading {self.model}"):
            return denseclip.load(
                self.model, self.classes, device=self.device, precision=self.precision, **self.settings
            )


def spread(devices: str | None, device: str) -> tuple[str, ...]:
    """The devices of --devices, () without; UserError beside --device."""
    from denseclip.segment.engine import parse_devices

    if devices is None:
        return ()
    if device != "auto":
        raise UserError("--device and --devices exclude each other; leave one of them out")
    return parse_devices(devices)


def tell_unread(counts: Mapping[str, int]) -> None:
    """Print which kinds of pictures were not read, if there are any."""
    from denseclip.data.images import unread_line

    if counts:
        say(unread_line(counts), "red")


def parse_scales(text: str) -> tuple[float, ...]:
    """Read "0.75,1,1.5"."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"scales {text!r} are not understood; write numbers with commas, such as 0.75,1,1.5"
        ) from None


def parse_numbers(text: str) -> tuple[int, ...]:
    """Read "0,1,5"."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"{text!r} is not understood; write whole numbers with commas, such as 0,1,5")
    return tuple(int(part) for part in parts)


class Speed(ProgressColumn):
    """Pictures, or other things, per second."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def render(self, task: Task) -> Text:
        """Such as "12.3 images/s"."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {self.what}/s", style="cyan")


def picture_progress(what: str = "images") -> Progress:
    """A progress bar that counts pictures, or other things."""
    columns = (
        text_column("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Speed(what),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def counting(title: str, what: str = "images") -> Iterator[Callable[..., None]]:
    """A progress bar; yields what to call with (done, total), and with a title if it is another one now."""
    with picture_progress(what) as progress:
        task = progress.add_task(title, total=None)

        def report(done: int, total: int, title: str = title) -> None:
            if progress.tasks[task].total is None:  # what an earlier run has done does not count as speed
                progress.reset(task, total=total, completed=done)
            progress.update(task, completed=done, description=title)

        yield report
