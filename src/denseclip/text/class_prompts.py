"""Classes and the prompts that describe them."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from denseclip.errors import UserError
from denseclip.text.sources import ClassSource, read_entries, read_words
from denseclip.text.words import key, show

BACKGROUND = "background"


@dataclass(frozen=True)
class ClassPrompts:
    """`classes[k]` is what masks call class k; `prompts[k]` are the one or more words that look for it.

    A prompt is put into every template. A prompt that starts with `=` is a literal sentence: it is used
    as it stands, in no template ("=two dogs asleep on a red sofa").

    Raises:
        UserError: no class, a class without prompts, or the same class or prompt twice (case and blanks
            do not count).
    """

    classes: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]

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
                if other != name:
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
        - a dict {id: name} of all ids from 0 on, as in the classes.json of `denseclip segment`;
        - JSON of such a list or dict as text;
        - a file, a path or a text that ends in .json (list or dict) or .txt (as text; `#` starts a comment).

        Raises:
            UserError: anything that cannot be meant, with the fix.
        """
        if isinstance(source, ClassPrompts):
            return source
        entries = read_entries(source)
        return cls(tuple(name for name, _ in entries), tuple(prompts for _, prompts in entries))

    def with_background(self, words: ClassSource) -> Self:
        """Add class 0, "background", found by these words (text or list); all other classes move up by one.

        Raises:
            UserError: there is a class "background" already, or a word serves another class.
        """
        if any(key(name) == BACKGROUND for name in self.classes):
            raise UserError("there is a class 'background' already; rename it or give no background words")
        return type(self)((BACKGROUND, *self.classes), (tuple(read_words(words)), *self.prompts))

    @cached_property
    def words(self) -> tuple[str, ...]:
        """All P prompts, class by class."""
        return tuple(prompt for prompts in self.prompts for prompt in prompts)

    @cached_property
    def owner(self) -> tuple[int, ...]:
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
