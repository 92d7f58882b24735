"""The `denseclip` command."""

import io
import os
import signal
import sys
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from denseclip.cli import (
    data,
    detect,
    distill,
    doctor,
    evaluate,
    export,
    flops,
    label,
    reproduce,
    robustness,
    segment,
    serve,
    train,
)
from denseclip.cli.command import Command
from denseclip.errors import UserError, not_installed
from denseclip.io import cannot_write

app = typer.Typer(
    name="denseclip",
    help="CLIP made dense: masks for any words you type.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(doctor.versions())
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Also torch, device, precision."),
    ] = False,
) -> None:
    """CLIP made dense: masks for any words you type. Exit codes: 0; 1 some pictures were left out and are listed;
    2 a mistake, in one line; 130 interrupted.
    """


COMMANDS: tuple[Command[..., Any], ...] = (
    segment.segment, detect.detect, label.label, doctor.models, segment.demo, evaluate.evaluate, flops.flops,
    robustness.robustness, reproduce.reproduce, serve.serve, train.train, distill.distill, export.export,
    doctor.recipes, doctor.classes, doctor.doctor,
)  # fmt: skip
for _one in COMMANDS:
    app.command(_one.name)(_one.shell())
app.add_typer(data.app, name="data")


class Interrupted(BaseException):
    """Ctrl-C, under a name that the command line's library does not catch with a message of its own."""


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    raise Interrupted


def main() -> None:
    """Run a command; a user's mistake is one line on stderr and exit code 2, an interruption 130."""
    signal.signal(signal.SIGINT, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not every terminal has all letters of a user's words
            stream.reconfigure(errors="replace")
    try:
        app()
    except UserError as error:
        print(f"denseclip: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        fix = not_installed(error)
        if fix is None:
            raise
        print(f"denseclip: {fix}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        message = cannot_write(error)
        if isinstance(error, BrokenPipeError) or message is None:
            _closed(error)
        print(f"denseclip: {message}", file=sys.stderr)
        sys.exit(2)
    except Interrupted:
        print("denseclip: interrupted; what was finished is kept", file=sys.stderr)
        sys.exit(130)


def _closed(error: OSError) -> NoReturn:
    """`denseclip models | head`: nobody reads on. Any other error is one of ours."""
    if not isinstance(error, BrokenPipeError):
        raise error
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


if __name__ == "__main__":
    main()
