"""Tar shards in WebDataset's naming: the pictures of a shard and where their bytes are."""

import tarfile
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import IO

from denseclip.data.images import SUFFIXES
from denseclip.data.unread import count_unread
from denseclip.errors import UserError
from denseclip.label import remote
from denseclip.label.items import Item


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
    if remote.is_address(shard):
        with remote.opened(shard) as file:
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
