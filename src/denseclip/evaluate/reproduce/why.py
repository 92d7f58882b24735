"""Why a claim does not hold: sentences put together by rule from the counts."""

from collections.abc import Sequence

from torch import Tensor

from denseclip.evaluate.bootstrap import Difference
from denseclip.evaluate.reproduce.sides import Side


def not_higher(difference: Difference, high: Sequence[Side], low: Sequence[Side], times: float) -> str:
    """Why the mean of `high` is not surely above (`times`) that of `low`."""
    verdict = _verdict(difference, len(high[0].areas))
    if len(high) > 1 or len(low) > 1:
        return f"{verdict} {_ranking([*high, *low])}"
    if times != 1:
        ratio = f"{high[0].name} has {high[0].miou / low[0].miou:.1f} times the mIoU of {low[0].name}"
        return f"{ratio}, where {times:g} times are asked for. {verdict}"
    return f"{verdict} {_classes(high[0], low[0])} {_finds(high[0], low[0])}"


def not_falling(drop: Difference, rises: Sequence[tuple[Side, Side, Difference]], images: int) -> str:
    """Why accuracy does not fall from level to level. rises: levels, and how much mIoU rises between them."""
    parts = [] if drop.low > 0 else [f"Clean against the strongest level. {_verdict(drop, images)}"]
    parts += [
        f"From {before.name} to {after.name} mIoU rises by {rise.miou * 100:.1f} points, "
        "and the interval leaves out zero."
        for before, after, rise in rises
    ]
    return " ".join(parts)


def _verdict(difference: Difference, images: int) -> str:
    points = f"{difference.miou * 100:+.1f} points"
    if difference.high < 0:
        return f"The opposite is found, {points}, and the interval leaves out zero."
    if difference.miou > 0:
        return f"The difference of {points} cannot be told from none with {images} images."
    return f"The difference is {points}; with {images} images it cannot be told from none."


def _ranking(sides: Sequence[Side]) -> str:
    ranked = sorted(sides, key=lambda side: side.miou)
    return f"From worst to best: {', '.join(f'{side.name} {side.miou:.1f}' for side in ranked)}."


def _classes(high: Side, low: Side) -> str:
    """In how many classes the supposed winner loses, and where most."""
    gains = (_iou(high.areas) - _iou(low.areas)) * 100  # (K,), nan for a class that neither has
    lost = int((gains < 0).sum())
    if not lost:
        return "No class loses."
    worst = int(gains.nan_to_num(0).argmin())
    known = int((~gains.isnan()).sum())
    return f"IoU is lower in {lost} of {known} classes, most in {high.classes[worst]} ({gains[worst]:+.1f})."


def _finds(high: Side, low: Side) -> str:
    """Classes of single images of which not one pixel is right any more, and those that are new."""
    there = low.areas[..., 2] > 0  # (images, K)
    after, before = (side.areas[..., 0] > 0 for side in (high, low))
    lost, new = int((there & before & ~after).sum()), int((there & after & ~before).sum())
    total = int((there & before).sum())
    return f"Of {total} times that {low.name} finds a class in an image, {high.name} misses {lost}; it adds {new}."


def _iou(areas: Tensor) -> Tensor:
    """(images, K, 3) -> (K,) IoU of the totals, nan for an empty union."""
    total = areas.sum(0).double()
    return total[:, 0] / total[:, 1]
