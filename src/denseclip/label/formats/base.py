"""What every format writes with."""

import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from denseclip import outputs
from denseclip.data.images import is_turned
from denseclip.io import atomic_path
from denseclip.label.labelled import Labeled, Labels, Rules
from denseclip.label.sources import Item, is_address

PNG_LEVEL = 3  # of zlib: masks shrink as much, in half the time


@dataclass(frozen=True)
class Target:
    """What all writers of a job share.

    out: the job's folder. model: what annotations are signed with. link_images: whether formats that keep pictures
    beside their labels get them. image_prefix: what Label Studio finds pictures by, before their names.
    """

    out: Path
    labels: Labels
    rules: Rules
    model: str
    link_images: bool = True
    image_prefix: str = "/data/local-files/?d="


@dataclass(frozen=True)
class Entry:
    """One labeled picture of the journal, for what is put together at the end.

    position: its number in the job. payload: what the writer's `write` gave.
    """

    position: int
    item: Item
    height: int
    width: int
    confidence: float
    payload: Any

    @property
    def number(self) -> int:
        """The picture's id in annotation files."""
        return self.position + 1 if self.item.number is None else self.item.number


Entries = Callable[[], Iterator[Entry]]


class Writer(ABC):
    """One format. `outputs` are the names in the job's folder that it writes below or to.

    boxes: whether a rectangle in place of a mask is read as a box.
    Creating one raises UserError if the format cannot hold the classes, or a package is missing.
    """

    name: ClassVar[str]
    outputs: ClassVar[tuple[str, ...]]
    boxes: ClassVar[bool] = False

    def __init__(self, target: Target) -> None:
        self.target = target

    @abstractmethod
    def write(self, picture: Labeled) -> Any:  # noqa: ANN401
        """Write the files of one picture, if it has any; what `finish` needs to know of it, as JSON can hold it.

        May be called again for the same picture, in any thread, in any order.
        """

    @abstractmethod
    def finish(self, entries: Entries) -> None:
        """Write the files that hold all pictures. May be called again."""


def save(picture: Image.Image, path: Path, **options: Any) -> None:
    """Write a picture atomically; no metadata, so that equal pictures are equal files."""
    with atomic_path(path) as temporary:
        picture.save(temporary, **options)


def png_bytes(picture: Image.Image) -> bytes:
    """A picture as a PNG file in memory."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write text piece by piece, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


def listed(values: Iterable[Any]) -> Iterator[str]:
    """JSON values as the inside of a JSON list, one a line."""
    separator = "\n"
    for value in values:
        yield separator + json.dumps(value, ensure_ascii=False)
        separator = ",\n"
    yield "\n"


def below(folder: Path, name: str, suffix: str) -> Path:
    """The file `name` + `suffix` in a folder, whatever dots the name has."""
    return folder / f"{name}{suffix}"


def place_image(picture: Labeled, folder: Path) -> Path:
    """Put a picture itself into a folder under the item's name: a hard link where possible, else its bytes.

    One that is stored turned (EXIF) is written upright, for readers that do not turn it: as JPEG if it is one, else
    as PNG. Returns its path.
    """
    item = picture.item
    path = below(folder, item.name, Path(item.file).suffix.lower() or ".jpg")
    local = not is_address(item.where) and item.size < 0
    content = None if local else item.content()
    if is_turned(Path(item.where) if content is None else content):
        jpeg = path.suffix in (".jpg", ".jpeg", ".jfif")
        path = path if jpeg else below(folder, item.name, ".png")
        save(Image.fromarray(picture.image), path, **({"quality": 95, "subsampling": 0} if jpeg else {}))
        return path
    if local:
        path.parent.mkdir(parents=True, exist_ok=True)
        outputs.note(path, link=Path(item.where))
        path.unlink(missing_ok=True)
        try:
            os.link(Path(item.where).resolve(), path)
        except OSError:  # another disk, or links are not allowed
            content = item.content()
        else:
            return path
    with atomic_path(path) as temporary:
        temporary.write_bytes(content or b"")
    return path
