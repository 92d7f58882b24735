"""From what a user names to the list of pictures."""

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path, PurePath, PurePosixPath

from denseclip.data.coco import parse_images
from denseclip.data.images import SUFFIXES, list_images
from denseclip.data.unread import count_unread, unread_in, unread_line
from denseclip.errors import UserError
from denseclip.label import remote, shards
from denseclip.label.items import Item, named

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
        items = [item for shard in _expand(source) for item in shards.list_shard(shard, unread)]
    elif suffix == ".txt":
        items = list(_from_list(source, images))
    elif suffix == ".json":
        items = _from_coco(source, images)
    elif remote.is_address(source):
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
        if remote.is_address(one):
            expanded += [address for _, address in remote.expand(one)]
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
    found = remote.expand(source)
    if len(found) == 1 and found[0][1] == source:
        return [Item(*found[0])]
    shards_found = [address for name, address in found if name.lower().endswith(".tar")]
    if shards_found:
        return [item for shard in shards_found for item in shards.list_shard(shard, unread)]
    unread += count_unread(name for name, _ in found)
    return [
        Item(name, address)
        for name, address in found
        if PurePosixPath(name).suffix.lower() in SUFFIXES and not PurePosixPath(name).name.startswith(".")
    ]


def _text(source: str) -> str:
    if remote.is_address(source):
        content = remote.read(source, 0, -1, MAX_LIST_BYTES)
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
    beside = images is not None or remote.is_address(source)
    seen: set[str] = set()
    for line in _text(source).splitlines():
        entry = line.strip()
        if "\0" in entry:
            raise UserError(f"{source} is no list of pictures; write one path a line")
        if not entry or (entry.startswith("#") and not _exists(_join(folder, entry))):
            continue
        where = _join(folder, entry)
        if not remote.is_address(where) and not _exists(where):
            slashed = entry.replace("\\", "/")  # as Windows writes it
            if _exists(_join(folder, slashed)):
                where = _join(folder, slashed)
            elif not beside and _exists(entry):
                where = entry
        same = where if remote.is_address(where) else os.path.realpath(where)
        if same not in seen:
            seen.add(same)
            yield Item(_name(entry, where, folder), where)


def _name(entry: str, where: str, folder: str) -> str:
    """What a picture is called in annotation files: its path from the folder of pictures; all of an address."""
    if remote.is_address(where):
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
    if remote.is_address(source):
        head, chain, tail = source.partition("::")
        return head.rpartition("/")[0] + chain + tail
    return str(Path(source).parent)


def _join(folder: str, name: str) -> str:
    if remote.is_address(name):
        return name
    if remote.is_address(folder):
        head, chain, tail = folder.partition("::")
        return f"{head.rstrip('/')}/{name}{chain}{tail}"
    return str(Path(folder) / name)


def _relative(file: str) -> str:
    """The name of a picture in a list: without what leads out of any folder."""
    return "/".join(part for part in PurePosixPath(file).parts if part not in ("/", "..")) or file
