"""Text and JSON files that users give: a mark at the start (BOM) is no text, and faults are one line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from denseclip.errors import UserError


def read_text(path: Path, what: str, fix: str) -> str:
    """A UTF-8 file, with or without a byte order mark, as text with "\\n" for every end of a line.

    what: the kind of file, for messages ("list", "COCO file"). fix: what to do if it cannot be read.
    Raises UserError if there is no such file, it may not be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"no {what} {path}: {fix}") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what} {path} cannot be read ({reason}): {fix}") from None
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise UserError(f"{what} {path} is not text in UTF-8: save it as UTF-8") from None


def read_json(path: Path, what: str, fix: str) -> Any:  # noqa: ANN401
    """The content of a JSON file; UserError as `read_text`, and for broken JSON or one key given twice."""
    text = read_text(path, what, fix)
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise UserError(f"{path} is not JSON ({reason}): {fix}") from None


def read_lines(path: Path, fix: str) -> list[str]:
    """The lines of a list file without blank ones; UserError as `read_text`."""
    return [line.strip() for line in read_text(path, "list", fix).split("\n") if line.strip()]


def first_doubled(values: Sequence[str]) -> str | None:
    """The first value that was there before; None if all differ."""
    seen: set[str] = set()
    return next((value for value in values if value in seen or seen.add(value)), None)  # type: ignore[func-returns-value]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    doubled = first_doubled([key for key, _ in pairs])
    if doubled is not None:
        raise ValueError(f"key {doubled!r} comes twice")
    return dict(pairs)
