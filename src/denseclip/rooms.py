"""Packages that are called like a command, too: `denseclip.label(...)` beside `denseclip.label.job`."""

from importlib import import_module
from types import ModuleType
from typing import Any


class CallableRoom(ModuleType):
    """A package whose name is also a function of `denseclip.api`: importing it hides that one."""

    def __call__(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """See the command of this name."""
        return self._command(*args, **options)

    @property
    def _command(self) -> Any:  # noqa: ANN401
        return getattr(import_module("denseclip.api"), self.__name__.rpartition(".")[2])
