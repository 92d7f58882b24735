"""Running the command line in this process."""

import sys
from dataclasses import dataclass
from unittest.mock import patch

import pytest

from denseclip.cli.main import main


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


def call(*arguments: object) -> int:
    """The exit code of `denseclip ARGUMENTS`; exceptions other than an exit pass through, as a traceback would."""
    with patch.object(sys, "argv", ["denseclip", *map(str, arguments)]):
        try:
            main()
        except SystemExit as exit_:
            return exit_.code if isinstance(exit_.code, int) else 1
    return 0


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Ran:
    """Run `denseclip ARGUMENTS` in this process, and what it printed."""
    code = call(*arguments)
    captured = capsys.readouterr()
    return Ran(code, captured.out, captured.err)
