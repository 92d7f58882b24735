"""Do the papers' claims about training hold in the figures at hand?

The least favourable seeds are compared: the worst of what should be higher with the best of what should be lower.
With several seeds that difference has to pass the threshold; where a row has one seed, its 95 % interval over images
has to. Thresholds stand in the table's file, with their reasons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

from denseclip.evaluate.reproduce.claims import Claim
from denseclip.evaluate.reproduce.trained import why
from denseclip.evaluate.reproduce.trained.runs import Place, Run
from denseclip.evaluate.reproduce.trained.sides import Everything, Side, Sum
from denseclip.recipes.trained import ClaimPart, TrainedTable

Waiting = tuple[str, tuple[str, ...]]
"""A claim that could not be measured, and the rows that are not there."""


@dataclass(frozen=True)
class Verdicts:
    """Claims that could be held against figures, and those whose rows are not all there yet."""

    claims: tuple[Claim, ...]
    open: tuple[Waiting, ...]


def judge(table: TrainedTable, runs: Sequence[Run], made: Everything) -> Verdicts:
    """Every claim on every data set. runs: all of the table at this scale, made or not."""
    claims: list[Claim] = []
    waiting: list[Waiting] = []
    printed = {(row.name, row.data): table.published(row) for row in table.rows}
    planned = {run.place: run.recipe.data.val or "" for run in runs}
    for claim in table.claims:
        for data in dict.fromkeys(place[1] for place in planned):
            names = _names(claim, [name for name, where in planned if where == data])
            if not names or (claim.data and data not in claim.data):
                continue
            where = next(shown for place, shown in planned.items() if place[1] == data)
            lacking = [name for name in names if not made.get((name, data))]
            if lacking or (claim.paired and not _share_a_seed(made, names, data)):
                waiting.append((f"{claim.text} ({where})", tuple(lacking)))
            else:
                claims += _Judge(claim, data, where, made, printed).claims(names)
    return Verdicts(tuple(claims), tuple(waiting))


def _share_a_seed(made: Everything, names: Sequence[str], data: str) -> bool:
    seeds = [{one.run.seed for one in made[name, data]} for name in names]
    return bool(set.intersection(*seeds))


def _names(claim: ClaimPart, there: Sequence[str]) -> list[str]:
    """The rows a claim needs, of those that this scale has; none if it cannot be asked here."""
    if claim.kind == "above":
        return list(claim.names) if set(claim.names) <= set(there) else []
    pairs = zip(claim.rows, claim.teachers or claim.rows, strict=True)
    found = [pair for pair in pairs if set(pair) <= set(there)]
    return list(dict.fromkeys(name for pair in found for name in pair)) if len(found) > 1 else []


class _Judge:
    """One claim on one data set."""

    def __init__(
        self,
        claim: ClaimPart,
        data: str,
        where: str,
        made: Everything,
        printed: Mapping[Place, Mapping[str, str]],
    ) -> None:
        self.claim, self.data, self.where, self.made, self.printed = claim, data, where, made, printed

    def claims(self, names: Sequence[str]) -> list[Claim]:
        rows = [name for name in self.claim.rows if name in names]
        if self.claim.kind == "follows":
            return [self._follows(*pair) for pair in combinations(rows, 2)]
        return [self._within(rows) if self.claim.kind == "within" else self._above()]

    def _side(self, name: str) -> Side:
        return Side(name, self.claim.metric, tuple(self.made[name, self.data]))

    def _above(self) -> Claim:
        weights = self.claim.weights
        found = Sum.of(
            [self._side(name) for name in weights], list(weights.values()), paired=self.claim.paired
        )
        held = found.above(self.claim.above)
        reason = "" if held else why.not_above(found, self.claim.above)
        return self._verdict(self.claim.text, held, found, self.claim.above, reason)

    def _follows(self, first: str, second: str) -> Claim:
        teacher = dict(zip(self.claim.rows, self.claim.teachers, strict=True))
        teachers = Sum.of([self._side(teacher[first]), self._side(teacher[second])], [1.0, -1.0])
        if teachers.mean < 0:
            first, second = second, first
            teachers = Sum.of(teachers.sides[::-1], [1.0, -1.0])
        found = Sum.of([self._side(first), self._side(second)], [1.0, -1.0])
        apart = teachers.worst.low > 0
        held = apart and found.above(0)
        reason = "" if held else why.not_following(teachers, found, apart=apart)
        figures = {side.name: round(side.mean, 2) for side in teachers.sides}
        return self._verdict(f"{self.claim.text}: {first} above {second}", held, found, 0.0, reason, figures)

    def _within(self, rows: Sequence[str]) -> Claim:
        """The two rows that are furthest apart decide; negated, so that the least favourable seeds are taken."""
        pairs = permutations(rows, 2)
        sums = [Sum.of([self._side(low), self._side(high)], [1.0, -1.0]) for low, high in pairs]
        found = min(sums, key=lambda one: one.worst.miou)
        held = found.above(-self.claim.points)
        reason = "" if held else why.not_within(found, self.claim.points)
        figures = {name: round(self._side(name).mean, 2) for name in rows}
        return self._verdict(self.claim.text, held, found, -self.claim.points, reason, figures)

    def _verdict(
        self,
        text: str,
        held: bool,
        found: Sum,
        threshold: float,
        reason: str,
        figures: dict[str, float] | None = None,
    ) -> Claim:
        figures = dict(figures or {}) | {side.name: round(side.mean, 2) for side in found.sides}
        figures |= self._published(found) | {
            "mean difference": round(found.mean, 2),
            "difference": round(found.worst.miou, 2),
            "threshold": round(threshold, 2),
        }
        interval = (round(found.worst.low, 2), round(found.worst.high, 2))
        return Claim(f"{text} ({self.where})", held, figures, interval, reason, self._rule(found))

    def _published(self, found: Sum) -> dict[str, float]:
        """The same sum of published figures, if there are all."""
        texts = [self.printed[side.name, self.data].get(self.claim.metric) for side in found.sides]
        values = [float(text) for text in texts if text is not None]
        if len(values) < len(texts):
            return {}
        return {"published": round(sum(w * v for w, v in zip(found.weights, values, strict=True)), 2)}

    def _rule(self, found: Sum) -> str:
        seeds = ", ".join(
            f"{side.name} {len(side.runs)}" for side in found.sides if side.runs[0].run.seed is not None
        )
        alone = "the interval over images" if found.over_images else "a single seed"
        by = "seeds" if found.settled else alone
        return f"{self.claim.metric}. {self.claim.reason} Decided by {by}; seeds: {seeds or 'none'}."
