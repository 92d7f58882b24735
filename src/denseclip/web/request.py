"""What a visitor asks for, how much of it, and the command and the lines of Python that do the same."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import PurePath, PurePosixPath
from types import MappingProxyType
from typing import Any, Self

from denseclip.errors import UserError
from denseclip.loading import make_settings, resolve_auto
from denseclip.segment.proxy import TIMM
from denseclip.segment.settings import AUTO, Settings
from denseclip.text import ClassPrompts


@dataclass(frozen=True)
class Limits:
    """Bounds of a page.

    upload: bytes of a picture's file. pixels: of a picture. roll: of all pictures of one visitor, of which the
    latest always stays. words: prompts of one question, with synonyms and background words. text: characters of one
    question. sessions: visitors that are remembered; all_pixels: of all
    their pictures together; idle: seconds after which a visitor is forgotten. rows: word vectors kept in memory.
    """

    upload: int = 32 * 2**20
    pixels: int = 25_000_000
    roll: int = 50_000_000
    words: int = 500
    text: int = 200_000
    sessions: int = 64
    all_pixels: int = 200_000_000
    idle: float = 2 * 3600
    rows: int = 20_000


SIZES = (256, 384, 512, 768, 1024)
"""Short sides of the network's frame, in pixels."""
TEXTS = ("words", "preset", "background", "refine", "templates", "fusion", "proxy")


@dataclass(frozen=True)
class SegmentRequest:
    """Words and settings, each as the option of `denseclip segment` of the same name takes it.

    background: "" for auto. refine: "" for guided. threshold: None for none. size: short side of the network's
    frame, one of `SIZES`. proxy: "timm:NAME" for proxyclip, "" for none: a page opens no files.
    """

    words: str
    preset: str
    background: str = ""
    threshold: float | None = None
    refine: str = ""
    templates: str = "85"
    size: int = 512
    fusion: str = "scores"
    proxy: str = ""

    @classmethod
    def parse(cls, raw: object, limits: Limits) -> Self:
        """Read the page's JSON. Raises UserError for what is no question, or too long a one."""
        names = {field.name for field in fields(cls)}
        if not isinstance(raw, Mapping) or not {"words", "preset"} <= set(raw) <= names:
            raise UserError(f"a question is an object with words, preset and, at will, {', '.join(names)}")
        for name in set(TEXTS) & set(raw):
            if not isinstance(raw[name], str):
                raise UserError(f"{name} must be a text; write it in quotes")
        if sum(len(raw[name]) for name in set(TEXTS) & set(raw)) > limits.text:
            raise UserError(f"the words are longer than {limits.text:,} characters; ask for fewer")
        threshold, size = raw.get("threshold"), raw.get("size", 512)
        if threshold is not None and not _is_number(threshold):
            raise UserError("threshold must be a number between 0 and 1, or null")
        if size not in SIZES or not _is_number(size):
            raise UserError(f"size must be one of {', '.join(map(str, SIZES))}")
        return cls(**{**raw, "threshold": None if threshold is None else float(threshold), "size": int(size)})

    def json(self) -> dict[str, Any]:
        """What `parse` reads."""
        return asdict(self)

    @property
    def classes(self) -> str:
        """The words as `--classes` and `denseclip.load` take them."""
        return _no_file(self.words, "words")

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of `make_settings` that differ from its defaults, and the preset."""
        given: dict[str, Any] = {"preset": self.preset}
        if self.refine.strip():
            given["refine"] = self.refine.strip()
        if self.background.strip() not in ("", AUTO):
            given["background"] = _no_file(self.background, "background words")
        if self.threshold is not None:
            given["threshold"] = self.threshold
        if self.fusion != "scores":
            given["fusion"] = self.fusion
        if self.proxy.strip():
            if not self.proxy.strip().startswith(TIMM):
                raise UserError(f"the page opens no files; write proxy as {TIMM}NAME")
            given["proxy"] = self.proxy.strip()
        if self.size != 512:
            given["resize"] = f"2048x{self.size}"
        if self.templates != "85":
            given["templates"] = self.templates
        return given

    def settings(self, recommended: Mapping[str, str] = MappingProxyType({})) -> Settings:
        """The settings asked for, over those that the model recommends. UserError for a value that cannot be used."""
        return make_settings(**resolve_auto({"background": AUTO, **self.options}, recommended))

    def prompts(self, limits: Limits) -> ClassPrompts:
        """The classes asked for. Raises UserError for words that cannot be used, or too many."""
        if not self.words.strip():
            raise UserError('no words are given; write "cat, red car, grass"')
        prompts = ClassPrompts.parse(self.classes)
        if len(prompts.words) > limits.words:
            raise UserError(
                f"{len(prompts.words):,} words are more than the {limits.words:,} of this page; ask for fewer here, "
                "or run denseclip segment"
            )
        return prompts


def _no_file(text: str, what: str) -> str:
    """The same words, in a form that never names a file: the command line would read it, a page must not."""
    if "," in text or "." not in text:
        return text
    if "\n" not in text.strip() and PurePath(text.strip()).suffix.lower() in (".json", ".txt"):
        raise UserError(f"the page opens no files; paste the {what} of {text.strip()[:80]!r} themselves")
    return text.rstrip() + ","


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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


def command(origin: Origin, question: SegmentRequest, picture: str) -> str:
    """The `denseclip segment` call, quoted for a POSIX shell, run where the file `picture` is."""
    path = f"./{picture}" if picture.startswith("-") else picture
    parts = ["denseclip", "segment", path, "--model", origin.model, "--classes", question.classes]
    for name, value in (question.options | origin.options).items():
        parts += [f"--{name}", str(value)]
    return shlex.join(parts)


def python_lines(origin: Origin, question: SegmentRequest, picture: str) -> str:
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
