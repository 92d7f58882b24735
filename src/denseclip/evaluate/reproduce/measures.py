"""Every figure of a summary, from areas of classes summed over any images: what a bootstrap resamples."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from denseclip.evaluate.bootstrap import Figure, mean_of
from denseclip.evaluate.result import Result
from denseclip.recipes.trained import Metric

Areas = NDArray[np.float64]


def measure(metric: Metric, result: Result) -> Figure:
    """The figure of that name, from (n, models, K, 3) areas to (n, models) fractions.

    result: whose classes are grouped into seen and unseen ones.
    """
    if metric == "hIoU":
        seen, unseen = measure("mIoU(S)", result), measure("mIoU(U)", result)
        return lambda areas: _harmonic(seen(areas), unseen(areas))
    name, _, group = metric.partition("(")
    assert not group or result.unseen, "no classes are unseen"
    classes = {"": None, "S)": result.seen, "U)": result.unseen}[group]
    return _of_group(_KINDS[name], classes)


def _of_group(kind: Callable[[Areas], Areas], classes: Sequence[int] | None) -> Figure:
    chosen = slice(None) if classes is None else list(classes)
    return lambda areas: kind(areas[:, :, chosen])


def _iou(areas: Areas) -> Areas:
    return mean_of(areas[..., 0], areas[..., 1])


def _accuracy(areas: Areas) -> Areas:
    return mean_of(areas[..., 0], areas[..., 2])


def _pixel_accuracy(areas: Areas) -> Areas:
    return areas[..., 0].sum(-1) / areas[..., 2].sum(-1)


_KINDS = {"mIoU": _iou, "mAcc": _accuracy, "pAcc": _pixel_accuracy}


def _harmonic(seen: Areas, unseen: Areas) -> Areas:
    total = seen + unseen
    return np.divide(2 * seen * unseen, total, out=np.zeros_like(total), where=total != 0)
