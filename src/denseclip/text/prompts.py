"""Class names and the prompts that describe them: text, lists, JSON, files, class sets."""

import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from denseclip.errors import UserError, choose, nearest

MAX_CHARACTERS = 500
LITERAL = "="


def clean(word: object, where: str) -> str:
    """Trim a word, join its runs of blanks, compose its accents.

    `where` says for the message what the word is, e.g. "class 3".

    Raises:
        UserError: not a string, empty, too long, with control characters or with `{}`.
    """
    if not isinstance(word, str):
        raise UserError(f"{where} is {show(word)}, not a text; put it in quotes")
    text = " ".join(unicodedata.normalize("NFC", word).split())
    categories = {unicodedata.category(letter) for letter in text.removeprefix(LITERAL)}
    if categories & {"Cc", "Cs"}:
        raise UserError(f"{where}, {show(word)}, holds control characters; remove them")
    if not categories - {"Cf", "Zs"}:
        raise UserError(f"{where} is empty; write a word or remove the extra separator")
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"{where}, {show(text)}, has {len(text):,} characters; use at most {MAX_CHARACTERS}")
    if "{}" in text:
        raise UserError(
            f"{where}, {show(text)}, holds {{}}; give the word alone, templates are a separate option"
        )
    return text


def key(word: str) -> str:
    """What two words have in common if they differ in case and blanks only, as the tokenizer sees them."""
    return " ".join(unicodedata.normalize("NFC", word).casefold().split())


def show(thing: object, limit: int = 40) -> str:
    """`repr`, cut in the middle so that a message stays one readable line."""
    text = repr(thing[: 4 * limit] if isinstance(thing, str) else thing)
    return text if len(text) <= limit else f"{text[: limit - 10]}...{text[-6:]}"


CLOSING = {
    '"': '"',
    "'": "'",
    "\u201c": "\u201d\u201c",
    "\u201d": "\u201d",
    "\u201e": "\u201c\u201d",
    "\u2018": "\u2019",
    "\u201a": "\u2018\u2019",
    "\u00ab": "\u00bb",
    "\u00bb": "\u00ab",
}
APOSTROPHES = "'\u2018"  # may start a word that is in no quotes: '60s car


def split_words(line: str) -> list[str]:
    """The parts of a line between commas, each stripped and without the quotes around it.

    Commas in quotes belong to the word; so does a quote within a word (men's shoe, 19" screen). A line in brackets,
    as Python prints a list, is what is in them. A comma at the end is left out.
    Raises UserError for a quote that is not closed, or is followed by more.
    """
    text = line.strip()
    if re.match(r"""\[\s*['\u2018\u201c]""", text) and text.endswith("]"):
        text = text[1:-1].strip()
    parts, rest = [], text
    while True:
        part, comma, rest = _first(rest.lstrip())
        parts.append(part)
        if not comma:
            return parts[:-1] if len(parts) > 1 and not parts[-1] else parts


def _first(text: str) -> tuple[str, str, str]:
    """The first part, the comma behind it (empty at the end), and what follows."""
    closing = CLOSING.get(text[:1])
    if closing is None:
        part, comma, rest = text.partition(",")
        if part.count('"') % 2 and not re.search(r'\d"', part):
            raise UserError(f"{show(part.strip())} has one quote; close it or remove it")
        return part.strip(), comma, rest
    found = re.match(rf"(.+?)[{closing}]\s*(,|\||$)", text[1:])
    if found is None or found[2] == "|":
        return _unquoted(text, closed=found is not None)
    if found[1].count('"') % 2 and not re.search(r'\d"', found[1]):  # a quote further on closed this one
        raise UserError(
            f"the quote before {show(found[1].partition(',')[0].strip())} is not closed; close it or remove it"
        )
    return found[1].strip(), found[2], text[1 + found.end() :]


def _unquoted(text: str, *, closed: bool) -> tuple[str, str, str]:
    """A part that starts with a quote and is not all in quotes: synonyms in quotes of their own, or an apostrophe."""
    part, comma, rest = text.partition(",")
    if closed:
        return "|".join(_first(one.strip())[0] for one in part.split("|")), comma, rest
    if text[0] in APOSTROPHES:
        return part.strip(), comma, rest
    raise UserError(f"the quote before {show(part.strip()[1:])} is not closed; close it or remove it")


@dataclass(frozen=True)
class DatasetFacts:
    """One labeled data set: index order is label order, with `background` first where it is a class.

    `class_set` names the words that stand for the classes (they differ from the data set's own names,
    and never contain `background`). `palette` is RGB, 0..255, one color a class. `unseen` are the label
    indices hidden in the zero-shot setting, empty where there is no such split.
    """

    name: str
    class_set: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    unseen: tuple[int, ...]


@dataclass(frozen=True)
class Facts:
    """What `assets/facts.json` holds (source: the official MaskCLIP code).

    `coco_stuff_missing_ids`: raw ids of COCO-Stuff (0..181) that no class has.
    `context_raw_ids`: the 60 of the 459 Context categories that are used, 0 for background, in label order.
    """

    templates: tuple[str, ...]
    class_sets: Mapping[str, tuple[str, ...]]
    datasets: Mapping[str, DatasetFacts]
    coco_stuff_missing_ids: tuple[int, ...]
    context_raw_ids: tuple[int, ...]


@cache
def facts() -> Facts:
    """Read the packaged facts, once."""
    raw = json.loads((files("denseclip") / "assets" / "facts.json").read_text(encoding="utf-8"))
    return Facts(
        templates=tuple(raw["templates"]),
        class_sets={name: tuple(words) for name, words in raw["class_sets"].items()},
        datasets={name: _dataset(name, entry) for name, entry in raw["datasets"].items()},
        coco_stuff_missing_ids=tuple(raw["coco_stuff_missing_ids"]),
        context_raw_ids=tuple(raw["context_raw_ids"]),
    )


def class_set_names() -> tuple[str, ...]:
    """Names of all class sets."""
    return tuple(facts().class_sets)


def class_set(name: str) -> tuple[str, ...]:
    """Words of a class set, in label order: "voc", "context", "coco-stuff", "ade", "city", "context-459", ...

    Case and `_` for `-` do not matter. Words are as in the official code, so "ade" has `"bed "` with its
    trailing blank (harmless: the tokenizer drops it). Source: MaskCLIP, prompt engineering tool.

    Raises:
        UserError: there is no set of that name.
    """
    return facts().class_sets[_known(name, facts().class_sets, "class set")]


def is_class_set(name: str) -> bool:
    """Whether `class_set(name)` would answer."""
    return _plain(name) in facts().class_sets


def dataset_facts(name: str) -> DatasetFacts:
    """Classes, palette and unseen labels of "voc20", "voc21", "context59", "context60", "coco-stuff", ...

    Raises:
        UserError: there is no data set of that name.
    """
    return facts().datasets[_known(name, facts().datasets, "data set")]


def coco_things() -> tuple[str, ...]:
    """The 80 classes of COCO's instances, in the order of their ids; COCO-Stuff has them first."""
    return dataset_facts("coco-stuff").classes[:80]


def _known(name: str, table: Mapping[str, object], kind: str) -> str:
    if _plain(name) not in table:
        raise UserError(f"there is no {kind} {name!r}; {choose(_plain(name), table)}")
    return _plain(name)


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def _dataset(name: str, entry: dict[str, Any]) -> DatasetFacts:
    palette = tuple((int(r), int(g), int(b)) for r, g, b in entry["palette"])
    assert len(palette) == len(entry["classes"])
    return DatasetFacts(name, entry["class_set"], tuple(entry["classes"]), palette, tuple(entry["unseen"]))


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
    _not_nearly_a_set(text)
    if _FILE_NAME.search(text.strip()) and "," not in text:
        return _from_file(Path(text.strip()))
    if _JSON.match(text) or _is_json_list(text):
        return _from_object(_parse_json(text), "the classes")
    return _from_words(text.splitlines())


SETS_OF_DATA = ("voc", "context", "coco-stuff", "ade", "city", "context-459")


def _not_nearly_a_set(text: str) -> None:
    """One word that is close to a data set's name is more likely that than a thing to look for."""
    word = _plain(text)
    near = nearest(word, SETS_OF_DATA, most=1, cutoff=0.8)
    if near and len(word) != len(near[0]):  # "cite" and "ada" may be words
        raise UserError(
            f'{text.strip()!r} is one word, and close to the class set "{near[0]}": give --classes {near[0]}, or '
            f'"{text.strip()}," with a comma for the word itself'
        )


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


class _FromOne(list[Entry]):
    """Entries whose ids begin at 1."""


def _from_ids(names: Mapping[str, Any]) -> list[Entry]:
    """{id: name}, as `classes.json` has it: masks get these ids again, so they must be 0, 1, 2, ...

    Or 1, 2, ...: then 0 is left to the background, which is found by a rule.
    """
    ids = sorted(map(int, names))
    if ids != list(range(ids[0], ids[0] + len(names))) or ids[0] > 1:
        raise UserError(
            f"the ids are {', '.join(map(str, ids[:6]))}{', ...' if len(ids) > 6 else ''}, but masks count classes "
            "from 0 without gaps; number them so, or give a list of names"
        )
    entries = [_from_item(name, name) for _, name in sorted(names.items(), key=lambda item: int(item[0]))]
    return _FromOne(entries) if ids[0] else entries


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


BACKGROUND = "background"


@dataclass(frozen=True)
class ClassPrompts:
    """`classes[k]` is what masks call class k; `prompts[k]` are the one or more words that look for it.

    A prompt is put into every template. A prompt that starts with `=` is a literal sentence: it is used
    as it stands, in no template ("=two dogs asleep on a red sofa"). shared: a prompt may serve two classes, as in
    published lists of words; the first one has it. from_one: they were given with ids that begin at 1.

    Raises:
        UserError: no class, a class without prompts, or the same class or prompt twice (case and blanks
            do not count).
    """

    classes: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    shared: bool = False
    from_one: bool = False

    def __post_init__(self) -> None:
        assert len(self.classes) == len(self.prompts)
        if not self.classes:
            raise UserError('no classes are given; write "cat, red car, grass"')
        _refuse_twice("class", self.classes)
        owners: dict[str, str] = {}
        for name, prompts in zip(self.classes, self.prompts, strict=True):
            assert prompts, f"class {name} has no prompts"
            _refuse_twice(f"of class {show(name)} the prompt", prompts)
            for prompt in prompts:
                other = owners.setdefault(key(prompt), name)
                if other != name and not self.shared:
                    raise UserError(
                        f"prompt {show(prompt)} serves {show(other)} and {show(name)}; keep it in one"
                    )

    @classmethod
    def parse(cls, source: "ClassSource | ClassPrompts") -> "ClassPrompts":
        """Read classes from what a user gives.

        - text, "cat|kitten, red car, grass": classes between commas or on lines of their own, `|` between
          the prompts of one class, the first of which names it. Quotes around a class keep its commas;
        - the name of a class set, "voc", or of several, "voc+city", whose exact duplicates merge. A class set
          goes before a word of the same name: write ["city"] for the word;
        - a list of texts, in each of which commas belong to the word;
        - a dict {class: prompt, or list of prompts}: the class name itself is no prompt unless listed;
        - a dict {id: name} of all ids from 0 on, or from 1 on where a rule finds the background, as in the
          classes.json of `denseclip segment`;
        - JSON of such a list or dict as text;
        - a file, a path or a text that ends in .json (list or dict) or .txt (as text; `#` starts a comment).

        Raises:
            UserError: anything that cannot be meant, with the fix.
        """
        if isinstance(source, ClassPrompts):
            return source
        entries = read_entries(source)
        names, prompts = tuple(name for name, _ in entries), tuple(prompts for _, prompts in entries)
        return cls(names, prompts, from_one=isinstance(entries, _FromOne))

    def with_background(self, words: ClassSource) -> Self:
        """Add class 0, "background", found by these words (text or list); all other classes move up by one.

        Raises:
            UserError: there is a class "background" already, or a word serves another class.
        """
        if any(key(name) == BACKGROUND for name in self.classes):
            raise UserError("there is a class 'background' already; rename it or give no background words")
        return type(self)((BACKGROUND, *self.classes), (tuple(read_words(words)), *self.prompts), self.shared)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """All P prompts, class by class."""
        return tuple(prompt for prompts in self.prompts for prompt in prompts)

    @cached_property
    def class_of_prompt(self) -> tuple[int, ...]:
        """Index of the class of each of the P prompts, never falling."""
        return tuple(index for index, prompts in enumerate(self.prompts) for _ in prompts)

    def to_dict(self) -> dict[str, list[str]]:
        """{class: [prompts]}, which `parse` reads back."""
        return {name: list(prompts) for name, prompts in zip(self.classes, self.prompts, strict=True)}


def _refuse_twice(what: str, words: Iterable[str]) -> None:
    seen: set[str] = set()
    for word in words:
        if key(word) in seen:
            raise UserError(f"{what} {show(word)} is given twice; remove one")
        seen.add(key(word))
