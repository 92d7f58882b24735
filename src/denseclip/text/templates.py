"""Sentences that words are put into."""

from collections.abc import Sequence

from denseclip.errors import UserError
from denseclip.text.prompts import facts

BLANK = "{}"
TEMPLATES_85: tuple[str, ...] = facts().templates
"""The 80 ImageNet prompts of CLIP and five "... in the scene" ones (MaskCLIP)."""
TEMPLATES_80: tuple[str, ...] = TEMPLATES_85[:80]
"""CLIP's ImageNet prompts alone (SCLIP, ClearCLIP, NACLIP)."""
TEMPLATES_1: tuple[str, ...] = ("a photo of a {}.",)
"""The single template of MaskCLIP without prompt engineering."""

_NAMED = {"85": TEMPLATES_85, "80": TEMPLATES_80, "1": TEMPLATES_1}


def templates(choice: str | Sequence[str]) -> tuple[str, ...]:
    """Templates by name ("85", "80", "1"), or the user's own: one sentence with a `{}`, or a list of them.

    Raises:
        UserError: an unknown name, an empty list, or a sentence without exactly one `{}`.
    """
    if isinstance(choice, str) and choice.strip() in _NAMED:
        return _NAMED[choice.strip()]
    if isinstance(choice, str) and BLANK not in choice:
        raise UserError(f"there are no templates {choice!r}; use {', '.join(_NAMED)} or a sentence with {{}}")
    own = (choice,) if isinstance(choice, str) else tuple(choice)
    if not own:
        raise UserError(
            "the list of templates is empty; give at least one sentence such as 'a photo of a {}.'"
        )
    for sentence in own:
        if not isinstance(sentence, str) or sentence.count(BLANK) != 1:
            raise UserError(f"template {sentence!r} must be a sentence with exactly one {{}} for the word")
    return own


def official_templates(*class_sets: str) -> tuple[str, ...]:
    """Templates of the official code for these class sets: 85, or a single one if "blur" is among them.

    The single template then serves all sets, which looks like an oversight there, but makes its figures.
    """
    return TEMPLATES_1 if "blur" in class_sets else TEMPLATES_85


def fill(template: str, word: str) -> str:
    """Put a word into the blank; braces in the word stay as they are."""
    return template.replace(BLANK, word)
