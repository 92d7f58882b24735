"""Where classes come from: text, list, dict, class set or file, brought to (class, prompts) pairs."""

import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from denseclip.errors import UserError
from denseclip.text.facts import class_set, is_class_set
from denseclip.text.quotes import split_words
from denseclip.text.words import LITERAL, clean, show

Entry = tuple[str, tuple[str, ...]]
ClassSource = str | os.PathLike[str] | list[str] | tuple[str, ...] | Mapping[str, str | list[str]]

MAX_FILE_BYTES = 8 * 2**20
_FILE_NAME = re.compile(r"\.(json|txt|ya?ml|csv|toml)$", re.IGNORECASE)
_JSON = re.compile(r"""\s*(\[\s*(["\[{\]]|$)|\{)""")
_EXAMPLE = 'write "cat, red car, grass"'


def read_entries(source: object) -> list[Entry]:
    """Classes with their prompts, in order; see `ClassPrompts.parse` for the grammar.

    Raises:
        UserError: whatever is wrong with the source.
    """
    if isinstance(source, os.PathLike):
        return _from_file(Path(source))
    if isinstance(source, str):
        return _from_text(source)
    return _from_object(source, "the classes")


def read_words(source: object) -> list[str]:
    """Plain words with no classes, e.g. for the background: the prompts of `read_entries`, in order."""
    return [prompt for _, prompts in read_entries(source) for prompt in prompts]


def _from_text(text: str) -> list[Entry]:
    sets = text.split("+")
    if all(is_class_set(name) for name in sets):
        words = dict.fromkeys(word for name in sets for word in class_set(name))
        return [(word.strip(), (word,)) for word in words]
    if _FILE_NAME.search(text.strip()) and "," not in text:
        return _from_file(Path(text.strip()))
    if _JSON.match(text) or _is_json_list(text):
        return _from_object(_parse_json(text), "the classes")
    return _from_words(text.splitlines())


def _is_json_list(text: str) -> bool:
    """Whether it is one, whatever is in it; words may be in brackets, too."""
    try:
        return isinstance(json.loads(text), list)
    except (ValueError, RecursionError):
        return False


def _from_words(lines: list[str]) -> list[Entry]:
    return _from_list([part for line in lines if line.strip() for part in split_words(line)])


def _from_object(source: object, what: str) -> list[Entry]:
    if isinstance(source, Mapping):
        if source and all(_is_id(name) and isinstance(value, str) for name, value in source.items()):
            return _from_ids(source)
        return [_from_item(name, value) for name, value in source.items()]
    if isinstance(source, list | tuple):
        return _from_list(source)
    raise UserError(
        f"{what} are of type {type(source).__name__}; give a text, a list or a dict {{class: [prompts]}}"
    )


def _from_list(parts: list[Any] | tuple[Any, ...]) -> list[Entry]:
    if not parts:
        raise UserError(f"no classes are given; {_EXAMPLE}")
    entries = []
    for number, part in enumerate(parts, 1):
        prompts = _synonyms(part, f"class {number}")
        entries.append((prompts[0].removeprefix(LITERAL).strip(), prompts))
    return entries


def _is_id(name: object) -> bool:
    return isinstance(name, str) and name.isascii() and name.isdecimal()


def _from_ids(names: Mapping[str, Any]) -> list[Entry]:
    """{id: name}, as `classes.json` has it: masks get these ids again, so they must be 0, 1, 2, ..."""
    ids = sorted(map(int, names))
    if ids != list(range(len(names))):
        raise UserError(
            f"the ids are {', '.join(map(str, ids[:6]))}{', ...' if len(ids) > 6 else ''}, but masks count classes "
            "from 0 without gaps; number them so, or give a list of names"
        )
    return [_from_item(name, name) for _, name in sorted(names.items(), key=lambda item: int(item[0]))]


def _from_item(name: object, value: object) -> Entry:
    label = clean(name, f"class name {show(name)}")
    if "|" in label:
        raise UserError(f"class name {show(label)} holds '|', which separates prompts; choose another name")
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple):
        raise UserError(f"class {show(label)} has {show(value)} for prompts; give a list of texts")
    if not values:
        raise UserError(f"class {show(label)} has no prompts; give at least one, such as [{label!r}]")
    where = f"a prompt of class {show(label)}"
    return label, tuple(prompt for one in values for prompt in _synonyms(one, where))


def _synonyms(text: object, where: str) -> tuple[str, ...]:
    parts = text.split("|") if isinstance(text, str) else [text]
    return tuple(clean(part, where) for part in parts)


def _from_file(path: Path) -> list[Entry]:
    suffix = path.suffix.lower()
    if suffix not in {".json", ".txt"}:
        raise UserError(f"class file {path} is not .json or .txt; save it as one of them")
    text = _read(path)
    try:
        if suffix == ".json":
            return _from_object(_parse_json(text), "its classes")
        return _from_words([line for line in text.splitlines() if not line.lstrip().startswith("#")])
    except UserError as error:
        raise UserError(f"class file {path}: {error}") from None


def _read(path: Path) -> str:
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_FILE_BYTES:
            return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"class file {path} is not UTF-8 text; save it as UTF-8") from None
    except FileNotFoundError:
        raise UserError(f"class file {path} does not exist; check the name") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"class file {str(path)!r} cannot be read ({reason}); check it") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"class file {path} is no file but a folder or a device; give a file")
    size, limit = status.st_size / 2**20, MAX_FILE_BYTES / 2**20
    raise UserError(f"class file {path} has {size:.0f} MiB, more than {limit:.0f}; keep the words only")


def _parse_json(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except UserError:
        raise
    except RecursionError:
        raise UserError("it is nested too deeply; write {class: [prompts]}") from None
    except ValueError as error:
        raise UserError(f'it is not valid JSON ({error}); write {{"cat": ["cat", "kitten"]}}') from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"class {show(twice)} is given twice; keep one")
    return table
