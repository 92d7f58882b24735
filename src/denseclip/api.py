"""The commands as functions: `denseclip.label(...)` is `denseclip label ...`, with the same options and defaults.

Values take the place of texts (a list of words, a path in either form, one picture or several), results the place of
printed lines, and `UserError` that of an exit code.
"""

import inspect
from collections.abc import Callable, Mapping
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import typer

from denseclip.cli import detect as detecting
from denseclip.cli import distill as distilling
from denseclip.cli import evaluate as evaluating
from denseclip.cli import export as exporting
from denseclip.cli import label as labeling
from denseclip.cli import train as training
from denseclip.cli.console import Partly, silent
from denseclip.errors import not_installed

P = ParamSpec("P")
R = TypeVar("R")


class _Source(Enum):
    COMMANDLINE = 1
    DEFAULT = 2


class _Given:
    """In place of typer's context: which parameters the caller wrote."""

    def __init__(self, written: Mapping[str, Any]) -> None:
        self.written = written

    def get_parameter_source(self, name: str) -> _Source:
        return _Source.COMMANDLINE if name in self.written else _Source.DEFAULT


def _plain(command: Callable[P, R]) -> Callable[P, R]:
    return _function(command, inspect.signature(command))


def _with_context(command: Callable[Concatenate[typer.Context, P], R]) -> Callable[P, R]:
    signature = inspect.signature(command)
    without = signature.replace(parameters=list(signature.parameters.values())[1:])

    @wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        context = _Given(without.bind(*args, **kwargs).arguments)
        return command(cast(typer.Context, context), *args, **kwargs)

    return _function(cast(Callable[P, R], call), without)


def _function(command: Callable[P, R], signature: inspect.Signature) -> Callable[P, R]:
    """The command with values that suit its options, and nothing printed."""
    kinds = {
        name: getattr(one.annotation, "__origin__", one.annotation)
        for name, one in signature.parameters.items()
    }

    @wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        values = {name: _suited(value, kinds[name]) for name, value in bound.arguments.items()}
        with silent():
            try:
                return cast(Callable[..., R], command)(**values)
            except Partly as partly:  # some pictures were left out; the result lists them
                return cast(R, partly.result)
            except ModuleNotFoundError as error:
                raise not_installed(error) or error from None

    shown = [one.replace(annotation=kinds[name]) for name, one in signature.parameters.items()]
    cast(Any, call).__signature__ = inspect.Signature(shown)
    return call


def _suited(value: Any, kind: Any) -> Any:  # noqa: ANN401
    """A path for a text, a list of texts for one, "1,1.25" for (1, 1.25)."""
    text = str(kind)
    if isinstance(value, str) and "Path" in text and "str" not in text:
        return Path(value)
    if text.startswith("list[str]") and isinstance(value, str | Path):
        return [str(value)]
    if text.startswith("list[str]") and isinstance(value, list | tuple):
        return [str(one) for one in value]
    if kind is str and isinstance(value, Path):
        return str(value)
    if kind is str and isinstance(value, list | tuple):
        return ",".join(str(one) for one in value)
    return value


label = _with_context(labeling.label)
distill = _plain(distilling.distill)
train = _plain(training.train)
evaluate = _with_context(evaluating.evaluate)
detect = _plain(detecting.detect)
export = _plain(exporting.export)
