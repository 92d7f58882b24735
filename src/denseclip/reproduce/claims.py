"""Do the papers' claims hold in the figures at hand?

Among rows without training, the 95 % interval of a difference over resampled images has to pass the threshold. Among
trained ones the least favorable seeds are compared: the worst of what should be higher with the best of what should
be lower; with several seeds that difference has to pass, where a row has a single one, its interval has to.
Thresholds stand in the table's file, with their reasons; nothing is chosen after the figures are known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations, pairwise, permutations, product
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from denseclip.data.corruptions import KINDS
from denseclip.evaluate.metrics import Difference, Figure, contrast, figure
from denseclip.evaluate.result import Result
from denseclip.reproduce.runs import Finished, FinishedRun, Run
from denseclip.reproduce.tables import CHANCE, CLEAN, ClaimSpec, FigureSpec, Metric, Table

_NAMED = 3  # classes in a sentence


@dataclass(frozen=True)
class Claim:
    """A claim and its verdict.

    claim: the sentence, with the model and data set it was tested on. held: None if rows are not there yet. figures:
    of everything compared, and what decides, in percent (points). interval: 95 % of the difference that decides. why:
    a sentence on why it does not hold, "" if it does. rule: what was asked for and why.
    """

    claim: str
    held: bool | None
    figures: Mapping[str, float]
    interval: tuple[float, float] | None
    why: str = ""
    rule: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {key: value for key, value in asdict(self).items() if value != ""}


def check_claims(table: Table, planned: Sequence[Run], finished: Finished) -> list[Claim]:
    """Every claim on every model and data set that has its rows; those last that wait for rows.

    planned: all runs of the table that are asked for, finished or not.
    """
    trained = {row.name for row in table.rows}
    places = {run.place: run.data for run in planned}
    models = {run.stands_for: run.model for run in planned if run.stands_for}
    found: list[Claim] = []
    for spec in table.claims:
        named = any("/" in name or name in trained for name in (*spec.weights, *spec.rows))
        about = [""] if named else [model for model in models if not spec.models or model in spec.models]
        for model, place in product(about, spec.data or places):
            there = [run for run in planned if run.place == place and (not model or run.stands_for == model)]
            rows = {run.name.removeprefix(f"{model}/"): finished.get(run.key, ()) for run in there}
            if model and not {*spec.weights, *spec.rows} <= rows.keys() | {CHANCE}:
                continue  # a method that this model does not have
            if there:
                where = ", ".join([models[model], places[place]] if model else [places[place]])
                guess = {CHANCE: next(filter(None, rows.values()), ())}
                found += _Question(spec, table.levels, where, {**rows, **guess}).answers()
    return sorted(found, key=lambda claim: claim.held is None)


def named_figures(table: Table, finished: Finished) -> dict[str, tuple[float, float | None]]:
    """By name, our figure from means over seeds, and the published one if all its rows are published.

    Figures whose rows are not all there are left out.
    """
    found = {}
    for spec in table.figures:
        rows = {name: finished.get((name, spec.data), ()) for name in (*spec.top, *spec.bottom)}
        if all(rows.values()):
            ours = {
                name: fmean(one.result.summary()[spec.metric] for one in runs) for name, runs in rows.items()
            }
            printed = {name: runs[0].run.published.get(spec.metric) for name, runs in rows.items()}
            beside = {name: float(text) for name, text in printed.items() if text}
            if (value := _ratio(spec, ours)) is not None:
                found[spec.name] = value, _ratio(spec, beside)
    return found


def _ratio(spec: FigureSpec, values: Mapping[str, float]) -> float | None:
    if not {*spec.top, *spec.bottom} <= set(values):
        return None
    top, bottom = (
        sum(weight * values[name] for name, weight in part.items()) for part in (spec.top, spec.bottom)
    )
    return round(top / (bottom or 1.0), 4) if bottom or not spec.bottom else None


def chance(areas: Tensor) -> Tensor:
    """Areas (images, K, 3) that guessing has on average: every class equally likely at every pixel."""
    truth, classes = areas[..., 2].double(), areas.shape[1]
    guessed = truth.sum(1, keepdim=True) / classes  # (images, 1) pixels given to each class
    right = truth / classes
    return torch.stack([right, truth + guessed - right, truth], -1)


@dataclass(frozen=True)
class Side:
    """One row under one metric, with all its runs. guessing: what chance has on the same images instead."""

    name: str
    metric: Metric
    runs: Sequence[FinishedRun]
    guessing: bool = False

    @cached_property
    def areas(self) -> list[Tensor]:
        """(images, K, 3) by run; none if images were not counted one by one, as of detectors."""
        found = [one.result.matrix.per_image for one in self.runs if isinstance(one.result, Result)]
        return [chance(areas) for areas in found] if self.guessing else found

    @cached_property
    def values(self) -> list[float]:
        """Percent, by run."""
        if not self.guessing:
            return [one.result.summary()[self.metric] for one in self.runs]
        totals = (areas.sum(0).double().numpy()[None, None] for areas in self.areas)  # (1, 1, K, 3)
        return [self.figure(total).item() * 100 for total in totals]

    @property
    def mean(self) -> float:
        """Percent."""
        return fmean(self.values)

    @property
    def trained(self) -> bool:
        """Whether chance in training plays a part."""
        return self.runs[0].run.seed is not None

    @property
    def counted(self) -> Result:
        """One of its results, whose images were counted one by one."""
        result = self.runs[0].result
        assert isinstance(result, Result)
        return result

    @property
    def figure(self) -> Figure:
        """What a bootstrap resamples."""
        return figure(self.metric, len(self.counted.classes), self.counted.unseen)

    def iou(self) -> Tensor:
        """(K,) IoU in percent, mean over runs, nan for a class that does not occur."""
        totals = [areas.sum(0).double() for areas in self.areas]
        return torch.stack([total[:, 0] / total[:, 1] for total in totals]).nanmean(0) * 100


@dataclass(frozen=True)
class Sum:
    """A weighted sum of rows, in points.

    worst: with the least favorable run of each, and its interval: 95 % over images where they were counted one by
    one, else from the least to the most favorable seeds. mean: of the means over seeds.
    """

    sides: Sequence[Side]
    weights: Sequence[float]
    worst: Difference
    mean: float

    @classmethod
    def of(cls, sides: Sequence[Side], weights: Sequence[float], *, paired: bool = False) -> "Sum":
        """The sum; the worst run of what counts in favor, the best of what counts against.

        paired: the seed whose own sum is the least, of those that all rows have.
        """
        terms = [
            [weight * value for value in side.values] for side, weight in zip(sides, weights, strict=True)
        ]
        worst, best = ([some.index(choose(some)) for some in terms] for choose in (min, max))
        total = lambda picks: sum(some[k] for some, k in zip(terms, picks, strict=True))  # noqa: E731
        if paired:
            seeds = [[one.run.seed for one in side.runs] for side in sides]
            shared = [seed for seed in seeds[0] if all(seed in some for some in seeds)]
            worst = min(([some.index(seed) for some in seeds] for seed in shared), key=total)
        points = Difference(total(worst), total(worst), total(best))
        if all(side.areas for side in sides):
            areas = [side.areas[k] for side, k in zip(sides, worst, strict=True)]
            found = contrast(areas, weights, of=sides[0].figure)
            points = Difference(found.value * 100, found.low * 100, found.high * 100)
        mean = sum(weight * side.mean for side, weight in zip(sides, weights, strict=True))
        return cls(sides, weights, points, mean)

    @property
    def trained(self) -> bool:
        """Whether chance in training plays a part."""
        return any(side.trained for side in self.sides)

    @property
    def settled(self) -> bool:
        """Whether that chance is seen, by several seeds; then seeds decide, otherwise the interval does."""
        return self.trained and all(len(side.runs) > 1 for side in self.sides if side.trained)

    def above(self, points: float) -> bool:
        """Whether it is surely more than `points`."""
        return (self.worst.value if self.settled else self.worst.low) > points


@dataclass(frozen=True)
class _Question:
    """One claim at one place. rows: what is planned there, by name; no runs: it is not finished."""

    spec: ClaimSpec
    levels: Sequence[int]
    where: str
    rows: Mapping[str, Sequence[FinishedRun]]

    def answers(self) -> list[Claim]:
        """No claim if it cannot be asked here."""
        spec, cases = self.spec, [(self.spec.text, list(self.spec.weights))]
        if spec.kind == "falls":
            levels = {kind: [CLEAN, *(f"{kind} {level}" for level in self.levels)] for kind in KINDS}
            cases = [(spec.text.format(kind=kind.replace("_", " ")), names) for kind, names in levels.items()]
        elif spec.kind != "above":
            pairs = zip(spec.rows, spec.teachers or spec.rows, strict=True)
            there = [pair for pair in pairs if set(pair) <= set(self.rows)]
            cases = [(spec.text, list(dict.fromkeys(sum(there, ()))))] if len(there) > 1 else []
        asked = [(text, names) for text, names in cases if set(names) <= set(self.rows)]
        return [claim for text, names in asked for claim in self._answer(text, names)]

    def _answer(self, text: str, names: Sequence[str]) -> list[Claim]:
        lacking = [name for name in names if not self.rows[name]]
        seeds = [{one.run.seed for one in self.rows[name]} for name in names]
        if lacking or (self.spec.paired and not set.intersection(*seeds)):
            why = f"not measured: {', '.join(lacking) or 'a common seed'} not made yet"
            return [Claim(f"{text} ({self.where})", None, {}, None, why)]
        sides = [Side(name, self.spec.metric, self.rows[name], name == CHANCE) for name in names]
        if self.spec.kind == "follows":
            teacher = dict(zip(self.spec.rows, self.spec.teachers, strict=True))
            named = {side.name: side for side in sides}
            pairs = [(named[name], named[teacher[name]]) for name in self.spec.rows if name in named]
            return [self._follows(text, *two) for two in combinations(pairs, 2)]
        check = {"above": self._above, "within": self._within, "falls": self._falls}[self.spec.kind]
        return [check(text, sides)]

    def _above(self, text: str, sides: list[Side]) -> Claim:
        terms = list(zip(sides, self.spec.weights.values(), strict=True))
        if self.spec.best:
            rival = max((side for side, weight in terms if weight < 0), key=lambda side: side.mean)
            terms = [(side, weight) for side, weight in terms if weight > 0 or side is rival]
        found = Sum.of([side for side, _ in terms], [weight for _, weight in terms], paired=self.spec.paired)
        return self._verdict(text, found.above(self.spec.above), found, self.spec.above, sides)

    def _follows(self, text: str, *pairs: tuple[Side, Side]) -> Claim:
        """pairs: a row and its teacher."""
        pairs = tuple(sorted(pairs, key=lambda pair: -pair[1].mean))
        found, teachers = (Sum.of(sides, [1.0, -1.0]) for sides in zip(*pairs, strict=True))
        apart = teachers.worst.low > 0
        why = (
            f"The teachers cannot be told apart: {teachers.mean:+.1f} points, 95 % interval "
            f"{teachers.worst.low:+.1f} to {teachers.worst.high:+.1f}, so that neither is the stronger one."
        )
        text = f"{text}: {found.sides[0].name} above {found.sides[1].name}"
        held = apart and found.above(0)
        return self._verdict(text, held, found, 0.0, teachers.sides, "" if apart else why)

    def _within(self, text: str, sides: list[Side]) -> Claim:
        """The two rows that are furthest apart decide; negated, so that the least favorable seeds are taken."""
        sums = [Sum.of(pair, [1.0, -1.0]) for pair in permutations(sides, 2)]
        found = min(sums, key=lambda one: one.worst.value)
        (low, high), worst = found.sides, found.worst
        why = (
            f"{high.name} is above {low.name} by {-found.mean:.1f} points on average, {-worst.value:.1f} with the "
            f"seeds furthest apart, {-worst.low:.1f} at the end of the interval, where less than "
            f"{self.spec.points:g} are asked for."
        )
        return self._verdict(text, found.above(-self.spec.points), found, -self.spec.points, sides, why)

    def _falls(self, text: str, sides: list[Side]) -> Claim:
        """Held if the strongest level is below the clean pictures, and none is surely above the one before it."""
        drop = Sum.of([sides[0], sides[-1]], [1.0, -1.0])
        why = [] if drop.above(0) else [f"Clean against the strongest level: {_not_above(drop, 0)}"]
        for before, after in pairwise(sides):
            rise = Sum.of([after, before], [1.0, -1.0])
            if rise.above(0):
                points = f"{rise.worst.value:.1f} points, and the interval leaves out zero"
                why.append(f"From {before.name} to {after.name} {after.metric} rises by {points}.")
        return self._verdict(text, not why, drop, 0.0, sides, " ".join(why))

    def _verdict(
        self, text: str, held: bool, found: Sum, threshold: float, shown: Sequence[Side], why: str = ""
    ) -> Claim:
        """shown: rows whose figures come first. why: in place of what is said of a sum below its threshold."""
        figures = {side.name: side.mean for side in (*shown, *found.sides)}
        printed = [
            side.runs[0].run.published.get(self.spec.metric) for side in found.sides if not side.guessing
        ]
        values = [float(text) for text in printed if text]
        if len(values) == len(found.sides):
            figures["published"] = sum(w * value for w, value in zip(found.weights, values, strict=True))
        figures |= {"mean difference": found.mean, "difference": found.worst.value, "threshold": threshold}
        return Claim(
            f"{text} ({self.where})",
            held,
            {name: round(value, 2) for name, value in figures.items()},
            (round(found.worst.low, 2), round(found.worst.high, 2)),
            "" if held else why or _not_above(found, threshold),
            self._rule(found) if found.trained else self.spec.reason,
        )

    def _rule(self, found: Sum) -> str:
        seeds = ", ".join(f"{side.name} {len(side.runs)}" for side in found.sides if side.trained)
        over_images = all(side.areas for side in found.sides)
        by = "seeds" if found.settled else "the interval over images" if over_images else "a single seed"
        return f"{self.spec.metric}. {self.spec.reason} Decided by {by}; seeds: {seeds}."


def _not_above(found: Sum, threshold: float) -> str:
    """Why a sum is not surely above a threshold: sentences put together by rule from the figures."""
    mean, worst, images = found.mean, found.worst, found.sides[0].runs[0].result.images
    asked = f"where more than {f'{threshold:g}' if threshold else 'none'} are asked for"
    if mean <= threshold:
        verdict = f"It is {mean:+.1f} points{' on average' if found.trained else ''}, {asked}."
    elif worst.value <= threshold:
        least = f"{worst.value:+.1f} with the least favorable seeds"
        verdict = f"It is {mean:+.1f} points on average, but {least}, {asked}."
    else:
        by = f"{'with a single seed ' if found.trained else ''}the 95 % interval over {images} images decides"
        verdict = f"It is {worst.value:+.1f} points, but {by}, and it begins at {worst.low:+.1f}, {asked}."
    return " ".join([verdict, *_behind(found)])


def _behind(found: Sum) -> list[str]:
    """Where what should be higher falls behind most, if two rows are compared by IoU."""
    metric = found.sides[0].metric
    if len(found.sides) != 2 or not metric.startswith(("mIoU", "hIoU")):
        return []
    high, low = found.sides if found.weights[0] > 0 else found.sides[::-1]
    result = high.counted
    group = {"mIoU(S)": result.seen, "mIoU(U)": result.unseen}.get(metric, range(len(result.classes)))
    gains = (high.iou() - low.iou())[list(group)].nan_to_num(0)
    worst = [k for k in gains.argsort()[:_NAMED].tolist() if gains[k] < 0]
    named = ", ".join(f"{result.classes[group[k]]} ({gains[k]:+.1f})" for k in worst)
    said = [f"IoU of {high.name} is furthest below that of {low.name} in {named}."] if named else []
    return said if found.trained or low.guessing else [*said, _finds(high, low)]


def _finds(high: Side, low: Side) -> str:
    """Classes of single images of which not one pixel is right any more, and those that are new."""
    there = low.areas[0][..., 2] > 0  # (images, K)
    after, before = (side.areas[0][..., 0] > 0 for side in (high, low))
    total, lost, new = (int((there & some).sum()) for some in (before, before & ~after, after & ~before))
    return f"Of {total} times that {low.name} finds a class in an image, {high.name} misses {lost}; it adds {new}."
