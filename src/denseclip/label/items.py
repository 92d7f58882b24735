"""The pictures of a job: what each is called and where its bytes are."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Self

import numpy as np
from numpy.typing import NDArray

from denseclip.data.images import MAX_BYTES_PER_PIXEL, MAX_PIXELS, read_image
from denseclip.errors import UserError
from denseclip.label import remote

MAX_PART, MAX_NAME = 200, 1000  # bytes that disks take, with room for suffixes and numbers
MAX_BYTES = MAX_PIXELS * MAX_BYTES_PER_PIXEL


@dataclass(frozen=True, slots=True)
class Item:
    """One picture.

    file: its name for people and in annotation files, relative to the source, with "/" between folders.
    where: a path, or an address that fsspec opens. offset, size: its bytes in the tar shard `where`; size -1: the
    whole file. number: the id that a COCO file gave it. problem: why it cannot be read, if that is known already.
    name: the unique stem of its outputs, with "/" between folders.
    """

    file: str
    where: str
    offset: int = 0
    size: int = -1
    number: int | None = None
    problem: str | None = None
    name: str = ""

    def __str__(self) -> str:
        return f"{self.file} in {self.where}" if self.size >= 0 else self.where

    def line(self) -> str:
        """JSON that `parse` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read `line()`."""
        return cls(**json.loads(line))

    def content(self) -> bytes:
        """The picture's bytes; raises UserError if they cannot be had."""
        if self.problem:
            raise UserError(self.problem)
        if not 0 <= self.size <= MAX_BYTES and self.size != -1:
            raise UserError(f"picture {self} has {self.size / 2**30:.1f} GiB; make it smaller")
        if remote.is_address(self.where):
            return remote.read(self.where, self.offset, self.size, MAX_BYTES)
        try:
            with Path(self.where).open("rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            raise UserError(f"picture {self} cannot be read ({error.strerror}); check it") from None

    def read(self) -> NDArray[np.uint8]:
        """The picture, (H, W, 3) uint8 RGB, upright. Raises UserError if it cannot be used, see `read_image`."""
        if self.problem:
            raise UserError(self.problem)
        if self.size < 0 and not remote.is_address(self.where):
            return read_image(self.where)
        try:
            return read_image(self.content())
        except UserError as error:
            raise UserError(str(error).replace("the picture in memory", f"picture {self}")) from None


def named(items: Sequence[Item]) -> list[Item]:
    """The items with names that no two share, not even where capitals do not count.

    The name is `file` without its suffix; with it where another picture has the same ("a.jpg", "a.png"); and
    with a number where that is not enough.
    """
    items = [replace(item, file=printable(item.file)) for item in items]
    short = [_plain(item.file) for item in items]
    stems = [_stem(file) for file in short]
    counts = Counter(stem.casefold() for stem in stems)
    wanted = [stem if counts[stem.casefold()] == 1 else file for stem, file in zip(stems, short, strict=True)]
    taken: set[str] = set()
    result = []
    for item, want in zip(items, wanted, strict=True):
        name, number = want, 1
        while name.casefold() in taken:
            number += 1
            name = f"{want}~{number}"
        taken.add(name.casefold())
        result.append(replace(item, name=name))
    return result


def printable(text: str) -> str:
    """Text that UTF-8 can hold: file names may have bytes that it cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _plain(file: str) -> str:
    """A relative path below any folder: no root, no "..", no empty part, nothing that a disk refuses."""
    parts = [_part(part) for part in file.replace("\\", "/").split("/") if part.strip(" .")]
    path = "/".join(parts) or "_"
    return path if len(path.encode()) <= MAX_NAME else _short(path, MAX_PART)


def _stem(file: str) -> str:
    """The path without its suffix, unless nothing but dots would be left of its name."""
    stem = str(PurePosixPath(file).with_suffix(""))
    return stem if stem.rsplit("/", 1)[-1].strip(" .") else file


def _part(part: str) -> str:
    kept = "".join("_" if c in '<>:"|?*' or ord(c) < 32 else c for c in part)
    return kept if len(kept.encode()) <= MAX_PART else _short(kept, MAX_PART)


def _short(text: str, most: int) -> str:
    """The start of a text that is too long, and a hash of all of it."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{text.replace('/', '_').encode()[: most - 24].decode(errors='ignore')}-{digest}"
