"""The rows that a claim compares, with all their seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from denseclip.evaluate.bootstrap import Difference, contrast
from denseclip.evaluate.reproduce.evaluated import Evaluated
from denseclip.evaluate.reproduce.measures import measure
from denseclip.evaluate.reproduce.trained.runs import Made, Place
from denseclip.evaluate.result import Result
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
    """A weighted sum of rows. worst: with the least favourable run of each, in points, with its interval: 95 % over
    images where they were counted one by one, else from the least to the most favourable seeds. mean: of the means
    over seeds.
    """

    sides: tuple[Side, ...]
    weights: tuple[float, ...]
    worst: Difference
    mean: float

    @classmethod
    def of(cls, sides: Sequence[Side], weights: Sequence[float], *, paired: bool = False) -> "Sum":
        """The sum; the worst run of what counts in favour, the best of what counts against.

        paired: the seed whose own sum is the least, of those that all rows have.
        """
        if paired:
            chosen = min(_by_seed(sides), key=lambda runs: _sum(weights, runs, sides[0].metric))
        else:
            chosen = tuple(
                side.worst() if weight > 0 else side.best()
                for side, weight in zip(sides, weights, strict=True)
            )
        mean = sum(weight * side.mean for side, weight in zip(sides, weights, strict=True))
        return cls(tuple(sides), tuple(weights), _difference(sides, chosen, weights), mean)

    @property
    def settled(self) -> bool:
        """See `Side.settled`; then seeds decide, otherwise the interval does."""
        return all(side.settled for side in self.sides)

    @property
    def over_images(self) -> bool:
        """Whether the interval is one over images."""
        return all(isinstance(made.result, Result) for side in self.sides for made in side.runs)

    def above(self, points: float) -> bool:
        """Whether it is surely more than `points`."""
        return (self.worst.miou if self.settled else self.worst.low) > points


def counts_of(result: Evaluated) -> Result:
    """A result whose images were counted one by one."""
    assert isinstance(result, Result)
    return result


def _difference(sides: Sequence[Side], chosen: Sequence[Made], weights: Sequence[float]) -> Difference:
    """The sum over chosen runs, in points."""
    results = [made.result for made in chosen if isinstance(made.result, Result)]
    metric = sides[0].metric
    if len(results) == len(chosen):
        areas = [result.matrix.per_image for result in results]
        found = contrast(areas, weights, figure=measure(metric, results[0]))
        return Difference(found.miou * 100, found.low * 100, found.high * 100)
    least = _sum(weights, chosen, metric)
    most = [side.best() if weight > 0 else side.worst() for side, weight in zip(sides, weights, strict=True)]
    return Difference(least, least, _sum(weights, most, metric))


def _by_seed(sides: Sequence[Side]) -> list[tuple[Made, ...]]:
    """The runs of every seed that all rows have."""
    runs = [{made.run.seed: made for made in side.runs} for side in sides]
    return [tuple(one[seed] for one in runs) for seed in runs[0] if all(seed in one for one in runs)]


def _sum(weights: Sequence[float], runs: Sequence[Made], metric: Metric) -> float:
    return sum(weight * made.result.summary()[metric] for weight, made in zip(weights, runs, strict=True))
