"""Why a claim about training does not hold: sentences put together by rule from the figures."""

import torch

from denseclip.evaluate.reproduce.trained.sides import Side, Sum, counts_of

_MOST = 3  # classes named


def not_above(found: Sum, threshold: float) -> str:
    """Why a weighted sum is not surely above `threshold` points."""
    asked = (
        f"where more than {threshold:g} are asked for" if threshold else "where more than none are asked for"
    )
    return f"{_verdict(found, threshold, asked)} {_classes(found)}".rstrip()


def not_following(teachers: Sum, found: Sum, *, apart: bool) -> str:
    """Why the student of the stronger teacher is not surely the better one."""
    if not apart:
        low, high = teachers.worst.low, teachers.worst.high
        return (
            f"The teachers cannot be told apart: {teachers.mean:+.1f} points, 95 % interval {low:+.1f} to "
            f"{high:+.1f}, so that neither is the stronger one."
        )
    return not_above(found, 0.0)


def not_within(found: Sum, points: float) -> str:
    """Why rows are not surely within `points` of each other."""
    low, high = found.sides
    apart = f"{high.name} is above {low.name} by {-found.mean:.1f} points on average"
    worst = f"{-found.worst.miou:.1f} with the seeds furthest apart"
    end = f"{-found.worst.low:.1f} at the end of the interval"
    return f"{apart}, {worst}, {end}, where less than {points:g} are asked for."


def _verdict(found: Sum, threshold: float, asked: str) -> str:
    mean, worst = found.mean, found.worst
    if mean <= threshold:
        return f"It is {mean:+.1f} points on average, {asked}."
    if worst.miou <= threshold:
        return f"It is {mean:+.1f} points on average, but {worst.miou:+.1f} with the least favourable seeds, {asked}."
    images = found.sides[0].runs[0].result.images
    return (
        f"It is {worst.miou:+.1f} points, but with a single seed the 95 % interval over {images} images decides, and "
        f"it begins at {worst.low:+.1f}, {asked}."
    )


def _classes(found: Sum) -> str:
    """Where what should be higher falls behind most, if two rows are compared by IoU."""
    metric = found.sides[0].metric
    if len(found.sides) != 2 or not metric.startswith(("mIoU", "hIoU")):
        return ""
    high, low = sorted(found.sides, key=lambda side: -found.weights[found.sides.index(side)])
    result = counts_of(high.runs[0].result)
    group = {"mIoU(S)": result.seen, "mIoU(U)": result.unseen}.get(metric, tuple(range(len(result.classes))))
    gains = (_iou(high) - _iou(low))[list(group)].nan_to_num(0)
    order = gains.argsort()[:_MOST].tolist()
    behind = [f"{result.classes[group[k]]} ({gains[k]:+.1f})" for k in order if gains[k] < 0]
    return (
        f"IoU of {high.name} is furthest below that of {low.name} in {', '.join(behind)}." if behind else ""
    )


def _iou(side: Side) -> torch.Tensor:
    """(K,) IoU in percent, mean over runs, nan for a class that does not occur."""
    return torch.stack([counts_of(made.result).matrix.iou() for made in side.runs]).nanmean(0) * 100
