"""What a table takes from an evaluation, whatever was evaluated."""

from collections.abc import Mapping
from typing import Any, Protocol


class Described(Protocol):
    """Under which protocol; see `denseclip.evaluate.protocol`."""

    @property
    def weights(self) -> str:
        """Start of a hash over the model's weights."""

    def describe(self) -> Mapping[str, Any]:
        """A flat form to print or to store as JSON."""


class Evaluated(Protocol):
    """Figures by name, in percent, of a number of images. `denseclip.evaluate.result.Result` is one."""

    @property
    def protocol(self) -> Described:
        """What the figures depend on."""

    @property
    def images(self) -> int:
        """How many images were counted."""

    def summary(self) -> Mapping[str, float]:
        """Percent, not rounded, by names of `denseclip.recipes.trained.Metric`."""
