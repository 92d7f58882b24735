"""The one exception users meet."""


class UserError(ValueError):
    """A mistake the user can mend. The message is one line: what is wrong, then the fix.

    The command line prints it without a traceback and exits non-zero.
    """
