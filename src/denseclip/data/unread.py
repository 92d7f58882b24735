"""Kinds of pictures that cannot be read: they are named with what a command tells at its end."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath

from denseclip.data.walk import walk

_KINDS = """
    heic heif hif jxl jxr wdp svg svgz psd psb xcf ai eps pdf exr hdr dds ico icns tga pcx fits dcm nii
    jpf jpx j2k jpc crw cr2 cr3 nef nrw arw srf sr2 dng orf raf rw2 rwl pef srw x3f 3fr iiq kdc mrw raw
"""
UNREAD = frozenset(f".{kind}" for kind in _KINDS.split())


def count_unread(names: Iterable[str | PurePath]) -> Counter[str]:
    """How many of each suffix in `UNREAD`; hidden files do not count."""
    paths = map(PurePath, names)
    return Counter(
        p.suffix.lower() for p in paths if p.suffix.lower() in UNREAD and not p.name.startswith(".")
    )


def unread_in(sources: Sequence[str | os.PathLike[str]]) -> Counter[str]:
    """`count_unread` of what lies in folders or matches patterns; a file that is named as such does not count."""
    found: Counter[str] = Counter()
    for each in sources:
        source = os.fspath(each)
        path = Path(source)
        if path.is_dir():
            found += count_unread(walk(path, UNREAD))
        elif glob.has_magic(source) and not path.exists():
            found += count_unread(glob.glob(source, recursive=True))  # noqa: PTH207 Path.glob takes no absolute pattern
    return found


def unread_line(counts: Mapping[str, int]) -> str:
    """What to tell of them, in one line; empty if there are none."""
    if not counts:
        return ""
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
    return f"not read: {kinds} (such files are not understood; convert them to JPEG or PNG)"
