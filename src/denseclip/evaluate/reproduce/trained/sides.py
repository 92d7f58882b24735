"""The rows that a claim compares, with all their seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from torch import Tensor

from denseclip.evaluate.bootstrap import Difference, contrast
from denseclip.evaluate.reproduce.measures import measure
from denseclip.evaluate.reproduce.trained.runs import Made, Place
from denseclip.recipes.trained import Metric

Everything = Mapping[Place, Sequence[Made]]
"""Finished runs by place."""


@dataclass(frozen=True)
class Side:
    """One row under one metric."""

    name: str
    metric: Metric
    runs: tuple[Made, ...]

    @cached_property
    def values(self) -> tuple[float, ...]:
        """Percent, by run."""
        return tuple(made.result.summary()[self.metric] for made in self.runs)

    @property
    def mean(self) -> float:
        """Percent."""
        return fmean(self.values)

    @property
    def settled(self) -> bool:
        """Whether chance in training is seen: there are several seeds, or nothing was trained."""
        return len(self.runs) > 1 or self.runs[0].run.seed is None

    def worst(self) -> Made:
        """The run with the lowest figure."""
        return self.runs[self.values.index(min(self.values))]

    def best(self) -> Made:
        """The run with the highest figure."""
        return self.runs[self.values.index(max(self.values))]


@dataclass(frozen=True)
class Sum:
    """A weighted sum of rows. worst: with the least favourable run of each, in points, with its 95 % interval over
    images. mean: of the means over seeds.
    """

    sides: tuple[Side, ...]
    weights: tuple[float, ...]
    worst: Difference
    mean: float

    @classmethod
    def of(cls, sides: Sequence[Side], weights: Sequence[float]) -> "Sum":
        """The sum; the worst run of what counts in favour, the best of what counts against."""
        chosen = [
            side.worst() if weight > 0 else side.best() for side, weight in zip(sides, weights, strict=True)
        ]
        found = contrast(
            [areas(made) for made in chosen], weights, figure=measure(sides[0].metric, chosen[0].result)
        )
        points = Difference(found.miou * 100, found.low * 100, found.high * 100)
        mean = sum(weight * side.mean for side, weight in zip(sides, weights, strict=True))
        return cls(tuple(sides), tuple(weights), points, mean)

    @property
    def settled(self) -> bool:
        """See `Side.settled`; then seeds decide, otherwise the interval does."""
        return all(side.settled for side in self.sides)

    def above(self, points: float) -> bool:
        """Whether it is surely more than `points`."""
        return (self.worst.miou if self.settled else self.worst.low) > points


def areas(made: Made) -> Tensor:
    """(images, K, 3) of a run."""
    return made.result.matrix.per_image
