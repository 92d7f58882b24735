"""Does a claim of the paper hold in the figures at hand?

A claim is held if the 95 % interval of its difference, from resampled images, lies above zero. Nothing else is
asked, and nothing is chosen after the figures are known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from denseclip.data.corruptions import KINDS
from denseclip.evaluate.bootstrap import Difference, contrast
from denseclip.evaluate.reproduce import why
from denseclip.evaluate.reproduce.sides import Side, chance
from denseclip.evaluate.result import Result
from denseclip.recipes import CLEAN, ClaimRecipe, Recipe

CHANCE = "chance"
Runs = Mapping[tuple[str, str, str], Result]
"""Results by place in the published table: model, data set, method."""


@dataclass(frozen=True)
class Claim:
    """A claim and its verdict.

    claim: the sentence, with the model and data set it was tested on. figures: mIoU of everything compared and
    the difference that decides, in percent (points). interval: 95 % of that difference. why: a sentence on why
    it does not hold, "" if it does. rule: what was asked for and why, where claims differ in that.
    """

    claim: str
    held: bool
    figures: Mapping[str, float]
    interval: tuple[float, float]
    why: str = ""
    rule: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = {"claim": self.claim, "held": self.held, "figures": dict(self.figures)}
        found["interval"] = list(self.interval)
        said = {"why": self.why, "rule": self.rule}
        return found | {key: text for key, text in said.items() if text}


def judge(recipe: Recipe, runs: Runs, shown: Mapping[str, str]) -> list[Claim]:
    """Every claim of a table on every model and data set whose runs are there.

    shown: by published name of a model or data set, what ran in its place.
    """
    return [claim for one in recipe.claims for claim in _judge(one, recipe, runs, shown)]


def _judge(claim: ClaimRecipe, recipe: Recipe, runs: Runs, shown: Mapping[str, str]) -> list[Claim]:
    models = dict.fromkeys(key[0] for key in runs if not claim.models or key[0] in claim.models)
    data = dict.fromkeys(key[1] for key in runs)
    if "/" in "".join(claim.higher):  # models are named in the claim itself
        models = {"": None}
    found = []
    for model in models:
        for place in data:
            where = ", ".join(shown[name] for name in (model, place) if name)
            if claim.kind == "falls":
                found += _falls(claim, recipe.levels, runs, (model, place), where)
            else:
                found += _higher(claim, runs, (model, place), where)
    return found


def _side(runs: Runs, name: str, model: str, data: str) -> Side | None:
    """What `name` in a recipe stands for; None if it was not run."""
    if name == CHANCE:
        result = next((result for key, result in runs.items() if key[:2] == (model, data)), None)
        return None if result is None else Side(name, chance(result.matrix.per_image), result.classes)
    own, _, method = name.rpartition("/")
    result = runs.get((own or model, data, method))
    return None if result is None else Side(name, result.matrix.per_image, result.classes)


def _sides(runs: Runs, names: Sequence[str], at: tuple[str, str]) -> list[Side] | None:
    sides = [side for name in names if (side := _side(runs, name, *at))]
    return sides if len(sides) == len(names) else None


def _higher(claim: ClaimRecipe, runs: Runs, at: tuple[str, str], where: str) -> list[Claim]:
    high, low = _sides(runs, claim.higher, at), _sides(runs, claim.lower, at)
    if high is None or low is None:
        return []
    rivals = [max(low, key=lambda side: side.miou)] if claim.against == "best" else low
    weights = [1 / len(high)] * len(high) + [-claim.times / len(rivals)] * len(rivals)
    difference = contrast([side.areas for side in (*high, *rivals)], weights)
    held = difference.low > 0
    reason = "" if held else why.not_higher(difference, high, rivals, claim.times)
    figures = {side.name: round(side.miou, 2) for side in (*high, *low)}
    return [_verdict(f"{claim.text} ({where})", held, figures, difference, reason)]


def _falls(
    claim: ClaimRecipe, levels: Sequence[int], runs: Runs, at: tuple[str, str], where: str
) -> list[Claim]:
    """Held if the strongest level is below the clean pictures, and no level is above the one before it."""
    found = []
    for kind in KINDS:
        sides = _sides(runs, [CLEAN, *(f"{kind} {level}" for level in levels)], at)
        if sides is None:
            continue
        drop = contrast([sides[0].areas, sides[-1].areas], [1.0, -1.0])
        pairs = pairwise(sides)
        rises = [(a, b, contrast([b.areas, a.areas], [1.0, -1.0])) for a, b in pairs]
        rises = [rise for rise in rises if rise[2].low > 0]
        held = drop.low > 0 and not rises
        reason = "" if held else why.not_falling(drop, rises, len(sides[0].areas))
        text = f"{claim.text.format(kind=kind.replace('_', ' '))} ({where})"
        figures = {side.name: round(side.miou, 2) for side in sides}
        found.append(_verdict(text, held, figures, drop, reason))
    return found


def _verdict(text: str, held: bool, figures: dict[str, float], difference: Difference, reason: str) -> Claim:
    figures = figures | {"difference": round(difference.miou * 100, 2)}
    interval = (round(difference.low * 100, 2), round(difference.high * 100, 2))
    return Claim(text, held, figures, interval, reason)
