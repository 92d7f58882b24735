"""One word as a user writes it: cleaned, checked, compared, shown."""

import unicodedata

from denseclip.errors import UserError

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
