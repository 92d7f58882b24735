"""The one exception users meet, and what to do about a name that is not known."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake the user can mend. The message is one line: what is wrong, then the fix.

    The command line prints it without a traceback and exits non-zero.
    """


def choose(name: str, known: Iterable[str]) -> str:
    """The fix for an unknown name: "did you mean NAME?" if one is close, else the names to choose from."""
    names = {one.lower(): one for one in known}
    near = get_close_matches(name.strip().lower(), names, n=2, cutoff=0.7)
    if near:
        return f"did you mean {' or '.join(names[one] for one in near)}?"
    return f"choose one of {', '.join(names.values())}"
