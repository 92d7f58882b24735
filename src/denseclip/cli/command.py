"""A command: one function for the shell and for Python, with options of the one registry."""

import inspect
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, cast, get_type_hints

import typer

from denseclip.cli.console import say, silent
from denseclip.cli.registry import DEFAULTS, PANELS, Loudness, Options
from denseclip.errors import not_installed

P = ParamSpec("P")
R = TypeVar("R")
OPTIONS = get_type_hints(Options, include_extras=True)
LOUDNESS = get_type_hints(Loudness, include_extras=True)


@dataclass(frozen=True)
class Done(Generic[R]):
    """What a command did. result: for those who call it from Python; the rest is what --json prints.

    files: what was written. areas: the share of each class that occurs. figures: numbers, by name. failed: a line for
    each thing that was left out; with one the exit code is 1.
    """

    result: R
    files: Sequence[Path] = ()
    classes: Sequence[str] = ()
    areas: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    failed: Sequence[str] = ()

    def to_json(self, command: str) -> str:
        """One object, as tests/cli/result.schema.json has it."""
        content = {"command": command} | {
            name: getattr(self, name) for name in ("files", "classes", "areas", "figures", "failed")
        }
        return json.dumps(
            content | {"files": [str(file) for file in self.files]}, ensure_ascii=False, default=_plain
        )


def _plain(value: object) -> object:
    if hasattr(value, "__dataclass_fields__"):
        return asdict(cast(Any, value))
    return list(cast(Any, value)) if isinstance(value, tuple | set | frozenset) else str(value)


def values(options: Options) -> dict[str, Any]:
    """All options, those that were not written with their defaults."""
    return {name: _default(name) for name in OPTIONS} | options


def _default(name: str) -> Any:  # noqa: ANN401
    kind = getattr(OPTIONS[name], "__origin__", OPTIONS[name])
    return DEFAULTS.get(name, False if kind is bool else None)


class Command(Generic[P, R]):
    """A command: called, it is the function of the Python API, and prints nothing."""

    def __init__(self, function: Callable[P, Done[R]], names: Sequence[str]) -> None:
        self.function, self.__doc__ = function, function.__doc__
        self.name = function.__name__.rstrip("_")
        self.__name__, self.__module__ = function.__name__, function.__module__
        own = [
            one
            for one in inspect.signature(function).parameters.values()
            if one.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        ordered = sorted(names, key=lambda name: PANELS.index(_panel(OPTIONS[name])))
        kind = inspect.Parameter.KEYWORD_ONLY
        self.parameters = own + [
            inspect.Parameter(name, kind, default=_default(name), annotation=OPTIONS[name])
            for name in ordered
        ]
        shown = [one.replace(annotation=_bare(one.annotation)) for one in self.parameters]
        self.__signature__ = inspect.Signature(shown)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """With values that suit the options, and nothing printed."""
        bound = self.__signature__.bind(*args, **kwargs)
        kinds = {one.name: _bare(one.annotation) for one in self.parameters}
        suited = {name: _suited(value, kinds[name]) for name, value in bound.arguments.items()}
        with silent():
            try:
                return self.run(suited).result
            except ModuleNotFoundError as error:
                raise not_installed(error) or error from None

    def run(self, given: dict[str, Any]) -> Done[R]:
        """What it does with arguments and options by name."""
        first = [one.name for one in self.parameters if one.kind is inspect.Parameter.POSITIONAL_ONLY]
        ahead = [given[name] for name in first if name in given]
        rest = {name: value for name, value in given.items() if name not in first}
        return cast(Callable[..., Done[R]], self.function)(*ahead, **rest)

    def shell(self) -> Callable[..., None]:
        """The same for typer."""

        def call(context: typer.Context, **given: Any) -> None:
            loud = {name: given.pop(name) for name in LOUDNESS}
            written = {name: value for name, value in given.items() if _written(context, name)}
            if loud["verbose"]:
                logging.basicConfig(level=logging.INFO)
                say(f"{self.name}: " + ", ".join(f"{name}={value!r}" for name, value in given.items()), "dim")
            if not (loud["json"] or loud["quiet"]):
                done = self.run(written)
            else:
                with silent():
                    done = self.run(written)
                for line in done.failed:
                    print(f"denseclip: {line}", file=sys.stderr)
            if loud["json"]:
                print(done.to_json(self.name))
            if done.failed:
                raise typer.Exit(1)

        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_ONLY, annotation=typer.Context)
        kind = inspect.Parameter.KEYWORD_ONLY
        loud = [
            inspect.Parameter(name, kind, default=False, annotation=one) for name, one in LOUDNESS.items()
        ]
        cast(Any, call).__signature__ = inspect.Signature([context, *self.parameters, *loud])
        call.__annotations__ = {}
        call.__doc__, call.__name__ = self.__doc__, self.name
        return call


def command(*names: str) -> Callable[[Callable[P, Done[R]]], Command[P, R]]:
    """Make a command of a function that takes its arguments, and these options of the registry as **options.

    The function gets the options that were written; see `values` for the others.
    """
    return lambda function: Command(function, names)


def _written(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def _panel(annotation: Any) -> str:  # noqa: ANN401
    return cast(str, annotation.__metadata__[0].rich_help_panel)


def _bare(annotation: Any) -> Any:  # noqa: ANN401
    return (
        getattr(annotation, "__origin__", annotation) if hasattr(annotation, "__metadata__") else annotation
    )


def _suited(value: Any, kind: Any) -> Any:  # noqa: ANN401
    """A path for a text, a list of texts for one, "1,1.25" for (1, 1.25)."""
    text = str(kind)
    if isinstance(value, str) and "Path" in text and "str" not in text:
        return Path(value)
    if text.startswith("list[str]") and isinstance(value, str | Path):
        return [str(value)]
    if text.startswith("list[str]") and isinstance(value, list | tuple):
        return [str(one) for one in value]
    if kind in (str, str | None) and isinstance(value, Path):
        return str(value)
    if kind is str and isinstance(value, list | tuple):
        return ",".join(str(one) for one in value)
    return value
