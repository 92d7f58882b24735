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


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Ran:
    """Run `denseclip ARGUMENTS`; exceptions other than an exit pass through, as they would show a traceback."""
    with patch.object(sys, "argv", ["denseclip", *map(str, arguments)]):
        try:
            main()
            code = 0
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
    captured = capsys.readouterr()
    return Ran(code, captured.out, captured.err)
