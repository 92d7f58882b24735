"""The same mask without the page: a command, and lines of Python."""

import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from denseclip.web.question import Question


@dataclass(frozen=True)
class Origin:
    """How the page's model was loaded: what `--model`, `--device`, `--precision`, `--activation` were."""

    model: str
    device: str = "auto"
    precision: str = "auto"
    activation: str | None = None

    @property
    def options(self) -> dict[str, str]:
        """Device, precision and activation, where they were given."""
        given = {"device": self.device, "precision": self.precision, "activation": self.activation}
        return {name: value for name, value in given.items() if value not in ("auto", None)}


def command(origin: Origin, question: Question, picture: str) -> str:
    """The `denseclip segment` call, quoted for a POSIX shell, run where the file `picture` is."""
    path = f"./{picture}" if picture.startswith("-") else picture
    parts = ["denseclip", "segment", path, "--model", origin.model, "--classes", question.classes]
    for name, value in (question.options | origin.options).items():
        parts += [f"--{name}", str(value)]
    return shlex.join(parts)


def python_lines(origin: Origin, question: Question, picture: str) -> str:
    """Lines that leave the mask in `result.mask` and write it, run where the file `picture` is."""
    options: dict[str, Any] = question.options | origin.options
    keywords = "".join(f"    {name}={value!r},\n" for name, value in options.items())
    return (
        "import denseclip\n\n"
        f"segmenter = denseclip.load(\n    {origin.model!r},\n    {question.classes!r},\n{keywords})\n"
        f"result = segmenter.segment({picture!r})\n"
        f"result.indexed().save({mask_name(picture)!r})\n"
    )


def mask_name(picture: str) -> str:
    """What the mask of a picture's file is called when it is saved."""
    return f"{PurePosixPath(picture).stem}-mask.png"


def plain_name(name: str) -> str:
    """A file's name as the visitor's machine gave it, without folders and control characters, at most 120 long."""
    kept = "".join(c for c in name.replace("\\", "/").rpartition("/")[2] if c.isprintable()).strip()
    if len(kept) > 120:
        path = PurePosixPath(kept)
        kept = path.stem[: 120 - len(path.suffix[:10])] + path.suffix[:10]
    return kept if kept.strip(".") else "picture.png"
