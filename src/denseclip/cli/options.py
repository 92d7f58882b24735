"""Options that several commands share, and how they become a Segmenter."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeRemainingColumn,
)
from rich.text import Text

from denseclip.cli.console import Partly as Partly
from denseclip.cli.console import console as console
from denseclip.cli.console import say as say
from denseclip.cli.console import status as status
from denseclip.cli.console import text_column as text_column
from denseclip.cli.console import told as told
from denseclip.errors import UserError

if TYPE_CHECKING:
    from denseclip.segment.segmenter import Segmenter

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="tiny-rn, tiny-vit, a name such as ViT-B-16 or RN50, NAME:TAG, or a path."
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        "-c",
        help='Words: "cat|kitten, red car, grass", a class set such as voc, or a .json or .txt file.',
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        help="The last block: auto (the model's choice, else maskclip), maskclip, maskclip-reduced, sclip, "
        "clearclip, naclip, vanilla, sc-clip, resclip, resclip-sclip, resclip-clearclip, proxyclip; for ResNets "
        "also maskclip-dilated."
    ),
]
Proxy = Annotated[
    str | None, typer.Option(help="For proxyclip: a file of DINO or DINOv2 weights, or timm:NAME.")
]
Refine = Annotated[
    str | None,
    typer.Option(
        help="guided or pamr (outlines follow the picture), pd, ks, none; pd=0.3+ks=0.9+guided puts them together. "
        "auto: guided, but for trained models."
    ),
]
KsNorm = Annotated[
    str, typer.Option("--ks-norm", help="Keys normalized over channels (paper) or positions (official).")
]
BackgroundWords = Annotated[
    str | None,
    typer.Option(
        "--background",
        help='What becomes class 0: auto (where none of the words fits), none, words, or "usual" for a list of them.',
    ),
]
Threshold = Annotated[
    float | None, typer.Option(help="Pixels whose best word has a lower probability are background.")
]
Resize = Annotated[
    str,
    typer.Option(
        help="auto (the model's choice, else 2048x512, long x short side), short:512, long:520, exact:224x224, none."
    ),
]
SlideOption = Annotated[
    str | None,
    typer.Option(
        "--slide",
        help="Windows: crop/stride in pixels, such as 224/112; none; auto: the model's choice.",
    ),
]
FusionOption = Annotated[
    str, typer.Option("--fusion", help="Windows meet in their scores, or, before the last norm, in features.")
]
Scales = Annotated[str, typer.Option(help="Factors on that size, averaged: 0.75,1,1.5.")]
Flip = Annotated[bool, typer.Option("--flip", help="Average with the mirrored picture.")]
Templates = Annotated[
    str, typer.Option(help='Sentences around the words: 85, 80, 1, or your own "a map of {}.".')
]
CompatOption = Annotated[
    str | None,
    typer.Option(
        "--compat",
        help="As code of published numbers does it: official (MaskCLIP), sclip, naclip, sc-clip, proxyclip, resclip.",
    ),
]
Activation = Annotated[
    str | None,
    typer.Option(help="quick-gelu or gelu, for a file of weights that does not say it."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Devices = Annotated[
    str | None,
    typer.Option(help="Several, a process each: a number of GPUs, or cuda:0,cuda:1.", show_default=False),
]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16, fp16.")]
SETTINGS = (
    "preset", "proxy", "refine", "ks_norm", "background", "threshold", "resize", "slide", "fusion", "scales", "flip",
    "templates", "compat", "activation",
)  # fmt: skip


def settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `denseclip.load` among a command's arguments, by parameter name."""
    return {name: arguments[name] for name in SETTINGS} | {"scales": parse_scales(arguments["scales"])}


@dataclass(frozen=True)
class ModelOptions:
    """What the options above were set to."""

    model: str
    classes: str | None
    settings: dict[str, Any]
    device: str = "auto"
    precision: str = "auto"

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
    from denseclip.segment.devices import parse_devices

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


def given(context: typer.Context, values: dict[str, Any]) -> dict[str, Any]:
    """Those of the values, by parameter name, which the user wrote and did not leave to the default."""
    sources = {name: context.get_parameter_source(name) for name in values}
    return {name: values[name] for name, source in sources.items() if source and source.name != "DEFAULT"}


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
    return Progress(*columns, console=console)


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
