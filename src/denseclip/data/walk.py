"""Files below a folder, as a user sees them."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from denseclip.errors import UserError


def walk(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Files below `folder` that end in one of `suffixes` (lower case), by name, folder by folder.

    What is hidden (a file or folder whose name starts with a dot) is left out; folders that are links are entered,
    unless they lead back to where they are. Raises UserError for a folder that may not be read.
    """
    yield from _walk(folder, tuple(suffixes), (os.path.realpath(folder),))


def _walk(folder: Path, suffixes: tuple[str, ...], above: tuple[str, ...]) -> Iterator[Path]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"folder {folder} cannot be read ({error.strerror}); check its permissions") from None
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if entry.is_dir():
            real = os.path.realpath(path)
            if real not in above:
                yield from _walk(path, suffixes, (*above, real))
        elif path.suffix.lower() in suffixes and entry.is_file():
            yield path
