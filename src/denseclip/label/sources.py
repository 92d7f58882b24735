"""From what a user names to the list of pictures: paths, lists, COCO files, shards, whatever fsspec opens."""

import glob
import hashlib
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from denseclip.data.coco import parse_images
from denseclip.data.images import (
    MAX_BYTES_PER_PIXEL,
    MAX_PIXELS,
    SUFFIXES,
    count_unread,
    list_images,
    read_image,
    unread_in,
    unread_line,
)
from denseclip.errors import UserError


def is_address(where: str) -> bool:
    """Whether this is an address ("s3://...", "memory://..."), not a local path."""
    return "://" in where


@contextmanager
def careful(where: str) -> Iterator[None]:
    """Turn whatever a file system raises into a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is nothing at {where}; check the address") from None
    except ImportError as error:
        raise UserError(f"{where} needs a package ({_line(error)}); install it") from None
    except Exception as error:  # each file system has errors of its own
        raise UserError(f"{where} cannot be read ({_line(error)}); check it") from None


@contextmanager
def opened(where: str) -> Iterator[IO[bytes]]:
    """A file at an address, open for reading."""
    import fsspec

    with careful(where), fsspec.open(where, "rb") as file:
        yield file


def read_address(where: str, offset: int, size: int, limit: int) -> bytes:
    """`size` bytes from `offset`, or all (-1); UserError for more than `limit` bytes."""
    with opened(where) as file:
        if offset:
            file.seek(offset)
        content = file.read(limit + 1 if size < 0 else size)
    if len(content) > limit:
        raise UserError(f"picture {where} has more than {limit / 2**30:.1f} GiB; make it smaller")
    return content


def expand(address: str) -> list[tuple[str, str]]:
    """(name, address) of the files that an address means: itself, all below a folder, or what a pattern matches.

    Names are relative to the folder, or to what a pattern has before its first wildcard. Sorted.
    Raises UserError if there is nothing, or it cannot be reached.
    """
    import fsspec.core

    with careful(address):
        system, path = fsspec.core.url_to_fs(address)
        magic = next((place for place, c in enumerate(path) if c in "*?["), None)
        if magic is not None:
            root = path[:magic].rpartition("/")[0]
            found = [one for one in system.glob(path) if system.isfile(one)]
        elif system.isdir(path):
            root, found = path, system.find(path)
        else:
            system.info(path)
            return [(PurePosixPath(path).name, address)]
        names = [(one.strip("/").removeprefix(root.strip("/")).lstrip("/"), one) for one in found]
        return sorted((name, _address(address, system, one)) for name, one in names)


def _address(asked: str, system: Any, path: str) -> str:  # noqa: ANN401
    head, chain, tail = asked.partition("::")
    if chain:
        return f"{head.split('://')[0]}://{path.lstrip('/')}{chain}{tail}"
    return system.unstrip_protocol(path)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


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
        if is_address(self.where):
            return read_address(self.where, self.offset, self.size, MAX_BYTES)
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
        if self.size < 0 and not is_address(self.where):
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


def list_shard(shard: str, unread: Counter[str]) -> list[Item]:
    """The pictures of a shard in its order; those of a damaged one up to the damage, which is an item too.

    A member is a picture if all that follows the first dot of its name is a picture's suffix: "a.jpg", not
    "a.seg.png". Pictures of kinds that cannot be read are counted in `unread`.
    Raises UserError if there is no such shard or it is compressed.
    """
    if not shard.partition("::")[0].lower().endswith(".tar"):
        raise UserError(
            f"shard {shard} is compressed, its pictures cannot be reached singly; unpack it to .tar"
        )
    stem = PurePosixPath(shard.partition("::")[0]).stem
    if is_address(shard):
        with opened(shard) as file:
            return _members(file, shard, stem, unread)
    try:
        with Path(shard).open("rb") as file:
            return _members(file, shard, stem, unread)
    except OSError as error:
        raise UserError(f"shard {shard} cannot be read ({error.strerror}); check the name") from None


def _members(file: IO[bytes], shard: str, stem: str, unread: Counter[str]) -> list[Item]:
    items: list[Item] = []
    length = file.seek(0, 2)
    file.seek(0)
    problem = "it is cut short"
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.offset_data + member.size > length:
                    break
                if member.isreg() and not member.issparse() and _is_picture(member.name):
                    items.append(Item(f"{stem}/{member.name}", shard, member.offset_data, member.size))
                elif member.isreg():
                    unread += count_unread([member.name])
                archive.members = []  # type: ignore[attr-defined]  # which it would keep for ever
            else:
                problem = ""
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        problem = " ".join(str(error).split())[:80] or type(error).__name__
    if problem:
        told = f"shard {shard} is damaged after {len(items)} pictures ({problem}); copy it again"
        items.append(Item(f"{stem}.tar", shard, problem=told))
    return items


def _is_picture(name: str) -> bool:
    base = PurePosixPath(name).name
    key, _, extension = base.partition(".")
    return bool(key) and f".{extension.lower()}" in SUFFIXES


MAX_LIST_BYTES = 4 * 2**30
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


def list_items(
    source: str,
    *,
    images: str | None = None,
    leave_out: Path | None = None,
    unread: Counter[str] | None = None,
) -> list[Item]:
    """The pictures of a source, each with a unique name, in an order that depends on nothing else.

    source: a folder (searched in depth), a picture, a pattern ("photos/**/*.jpg"), a list (.txt, one path or
    address a line), a COCO file (.json), tar shards (one, a pattern, "shard-{000..011}.tar"), or any of these
    behind an address that fsspec opens ("s3://bucket/photos"). images: where the pictures of a COCO file or a list
    lie, if not beside it. leave_out: a folder in which no picture is looked for. unread: is given the number of
    pictures that are of kinds that cannot be read, by suffix.

    Raises UserError if there is nothing, or a list cannot be understood.
    """
    unread = Counter() if unread is None else unread
    suffix = PurePosixPath(source.partition("::")[0]).suffix.lower()
    if suffix == ".tar" or source.lower().endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2")):
        items = [item for shard in _expand(source) for item in list_shard(shard, unread)]
    elif suffix == ".txt":
        items = list(_from_list(source, images))
    elif suffix == ".json":
        items = _from_coco(source, images)
    elif is_address(source):
        items = _from_address(source, unread)
    else:
        items = _from_paths(source, leave_out)
        unread += unread_in([source])
    if not items:
        others = f"; {unread_line(unread)}" if unread else ""
        raise UserError(f"{source} holds no pictures; they end in {', '.join(SUFFIXES)}{others}")
    return named(items)


def _expand(source: str) -> list[str]:
    """Shards named by a pattern or by braces."""
    several = []
    pieces = _BRACES.split(source)
    if len(pieces) > 1:
        texts, ranges = pieces[::3], zip(pieces[1::3], pieces[2::3], strict=True)
        numbers = [[f"{n:0{len(a)}d}" for n in range(int(a), int(b) + 1)] for a, b in ranges]
        several = [
            "".join(part for pair in zip(texts, (*choice, ""), strict=True) for part in pair)
            for choice in product(*numbers)
        ]
    expanded = []
    for one in several or [source]:
        if is_address(one):
            expanded += [address for _, address in expand(one)]
        elif glob.has_magic(one) and not Path(one).exists():
            expanded += sorted(glob.glob(one, recursive=True))  # noqa: PTH207 Path.glob takes no absolute pattern
        else:
            expanded.append(one)
    if not expanded:
        raise UserError(f"no shard matches {source}; check the pattern")
    return expanded


def _from_paths(source: str, leave_out: Path | None) -> list[Item]:
    root = Path(source)
    if glob.has_magic(source) and not root.exists():
        magic = next(i for i, part in enumerate(root.parts) if glob.has_magic(part))
        root = Path(*root.parts[:magic])
    elif not root.is_dir():
        root = root.parent
    outside = None if leave_out is None else leave_out.resolve()
    inside = outside is not None and outside.is_relative_to(root.resolve())
    return [
        Item(path.relative_to(root).as_posix(), str(path))
        for path in list_images(source)
        if not inside or not path.resolve().is_relative_to(outside)  # type: ignore[arg-type]
    ]


def _from_address(source: str, unread: Counter[str]) -> list[Item]:
    found = expand(source)
    if len(found) == 1 and found[0][1] == source:
        return [Item(*found[0])]
    shards_found = [address for name, address in found if name.lower().endswith(".tar")]
    if shards_found:
        return [item for shard in shards_found for item in list_shard(shard, unread)]
    unread += count_unread(name for name, _ in found)
    return [
        Item(name, address)
        for name, address in found
        if PurePosixPath(name).suffix.lower() in SUFFIXES and not PurePosixPath(name).name.startswith(".")
    ]


def _text(source: str) -> str:
    if is_address(source):
        content = read_address(source, 0, -1, MAX_LIST_BYTES)
    else:
        try:
            content = Path(source).read_bytes()
        except OSError as error:
            raise UserError(f"{source} cannot be read ({error.strerror}); check the name") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{source} is not UTF-8 text; save it as UTF-8") from None


def _from_list(source: str, images: str | None) -> Iterator[Item]:
    """One picture a line; relative ones lie in `images` or beside the list, or else below the present folder.

    Empty lines and comments (#) are left out, and a picture that was there before.
    """
    folder = images or _folder(source)
    beside = images is not None or is_address(source)
    seen: set[str] = set()
    for number, line in enumerate(_text(source).splitlines(), 1):
        entry = line.strip()
        if "\0" in entry:
            raise UserError(f"{source} is no list of pictures; write one path a line")
        if not entry or (entry.startswith("#") and not _exists(_join(folder, entry))):
            continue
        where = _join(folder, entry)
        problem = None
        if not is_address(where) and not _exists(where):
            slashed = entry.replace("\\", "/")  # as Windows writes it
            if _exists(_join(folder, slashed)):
                where = _join(folder, slashed)
            elif not beside and _exists(entry):
                where = entry
            else:
                problem = f"there is no picture {where}; mend line {number} of {source}"
        same = where if is_address(where) else os.path.realpath(where)
        if same not in seen:
            seen.add(same)
            yield Item(_name(entry, where, folder), where, problem=problem)


def _name(entry: str, where: str, folder: str) -> str:
    """What a picture is called in annotation files: its path from the folder of pictures; all of an address."""
    if is_address(where):
        return _relative(entry.partition("::")[0].split("://")[-1])
    path, base = PurePath(where), PurePath(folder)
    if path.is_relative_to(base):
        return path.relative_to(base).as_posix()
    return PurePath(os.path.relpath(where, folder)).as_posix()


def _exists(path: str) -> bool:
    return os.path.exists(path)  # noqa: PTH110 Path.exists raises for names that are too long


def _from_coco(source: str, images: str | None) -> list[Item]:
    """The pictures of a COCO file, by its ids; it keeps them, if they are numbers, and its file names."""
    try:
        raw = json.loads(_text(source))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not JSON ({str(error)[:80]}); export it again") from None
    entries = parse_images(raw, source)
    numbered = all(isinstance(own, int) for own in entries)
    folder = images or _folder(source)
    return [
        Item(name, _join(folder, name), number=own if numbered and isinstance(own, int) else None)
        for own, name in sorted(
            entries.items(), key=lambda entry: (not numbered, entry[0] if numbered else 0)
        )
    ]


def _folder(source: str) -> str:
    if is_address(source):
        head, chain, tail = source.partition("::")
        return head.rpartition("/")[0] + chain + tail
    return str(Path(source).parent)


def _join(folder: str, name: str) -> str:
    if is_address(name):
        return name
    if is_address(folder):
        head, chain, tail = folder.partition("::")
        return f"{head.rstrip('/')}/{name}{chain}{tail}"
    return str(Path(folder) / name)


def _relative(file: str) -> str:
    """The name of a picture in a list: without what leads out of any folder."""
    return "/".join(part for part in PurePosixPath(file).parts if part not in ("/", "..")) or file
