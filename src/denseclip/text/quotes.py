"""Words between commas, some of them in quotes."""

import re

from denseclip.errors import UserError
from denseclip.text.words import show

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
    return found[1].strip(), found[2], text[1 + found.end() :]


def _unquoted(text: str, *, closed: bool) -> tuple[str, str, str]:
    """A part that starts with a quote and is not all in quotes: synonyms in quotes of their own, or an apostrophe."""
    part, comma, rest = text.partition(",")
    if closed:
        return "|".join(_first(one.strip())[0] for one in part.split("|")), comma, rest
    if text[0] in APOSTROPHES:
        return part.strip(), comma, rest
    raise UserError(f"the quote before {show(part.strip()[1:])} is not closed; close it or remove it")
