"""From what a user names to the list of pictures."""

import glob
import json
import os
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

from denseclip.data.images import SUFFIXES, list_images
from denseclip.errors import UserError
from denseclip.label import remote, shards
from denseclip.label.items import Item, named

MAX_LIST_BYTES = 4 * 2**30
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


def list_items(source: str, *, images: str | None = None, leave_out: Path | None = None) -> list[Item]:
    """The pictures of a source, each with a unique name, in an order that depends on nothing else.

    source: a folder (searched in depth), a picture, a pattern ("photos/**/*.jpg"), a list (.txt, one path or
    address a line), a COCO file (.json), tar shards (one, a pattern, "shard-{000..011}.tar"), or any of these
    behind an address that fsspec opens ("s3://bucket/photos"). images: where the pictures of a COCO file or a list
    lie, if not beside it. leave_out: a folder in which no picture is looked for.

    Raises UserError if there is nothing, or a list cannot be understood.
    """
    suffix = PurePosixPath(source.partition("::")[0]).suffix.lower()
    if suffix == ".tar" or source.lower().endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2")):
        items = [item for shard in _expand(source) for item in shards.list_shard(shard)]
    elif suffix == ".txt":
        items = list(_from_list(source, images))
    elif suffix == ".json":
        items = _from_coco(source, images)
    elif remote.is_address(source):
        items = _from_address(source)
    else:
        items = _from_paths(source, leave_out)
    if not items:
        raise UserError(f"{source} holds no pictures; they end in {', '.join(SUFFIXES)}")
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


def _from_address(source: str) -> list[Item]:
    found = remote.expand(source)
    if len(found) == 1 and found[0][1] == source:
        return [Item(*found[0])]
    shards_found = [address for name, address in found if name.lower().endswith(".tar")]
    if shards_found:
        return [item for shard in shards_found for item in shards.list_shard(shard)]
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
    """One picture a line; relative ones lie in `images` or beside the list, or else below the present folder."""
    folder = images or _folder(source)
    beside = images is not None or remote.is_address(source)
    for line in _text(source).splitlines():
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        if "\0" in entry:
            raise UserError(f"{source} is no list of pictures; write one path a line")
        where = _join(folder, entry)
        if not beside and not remote.is_address(entry) and not _exists(where) and _exists(entry):
            where = entry
        file = entry.partition("::")[0].split("://")[-1] if remote.is_address(entry) else entry
        yield Item(_relative(file), where)


def _exists(path: str) -> bool:
    return os.path.exists(path)  # noqa: PTH110 Path.exists raises for names that are too long


def _from_coco(source: str, images: str | None) -> list[Item]:
    """The pictures of a COCO file, by its ids; it keeps them and its file names."""
    try:
        raw = json.loads(_text(source))
        entries = [(_whole(image["id"]), str(image["file_name"])) for image in raw["images"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{source} is not a COCO file ({type(error).__name__}: {str(error)[:80]}); it needs images with id and "
            "file_name"
        ) from None
    if len({number for number, _ in entries}) < len(entries):
        raise UserError(f"{source} gives one id to several images; repair it")
    folder = images or _folder(source)
    return [
        Item(name, _join(folder, name), number=number)
        for number, name in sorted(entries)
        if "\0" not in name or _refuse(f"{source} has a file_name with a null character; repair it")
    ]


def _refuse(message: str) -> bool:
    raise UserError(message)


def _whole(number: Any) -> int:  # noqa: ANN401
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"id {str(number)[:40]} is no whole number")
    return number


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
