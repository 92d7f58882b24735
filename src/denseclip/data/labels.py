"""From the ids of an annotation file to the labels a training sees (maskclip section d.2)."""

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORE = 255
UNLABELLED = -1


def ignore_index(classes: int) -> int:
    """What pixels that are not counted become: 255, or 65535 where 255 is a class."""
    return IGNORE if classes <= IGNORE else 65535


def training_labels(
    raw: NDArray[Any], *, reduce_zero: bool = False, suppress: Collection[int] = ()
) -> NDArray[np.int16]:
    """Hide the labels that the model must find by itself.

    raw: (H, W) integer ids. reduce_zero: 0 becomes 255 (ignored) and every other id moves down by one, 255
    stays 255. suppress: labels, counted after that shift, that become -1 = unlabelled.
    Returns (H, W) int16: -1 unlabelled, 255 ignored, otherwise the class.
    """
    labels = raw.astype(np.int16)  # a copy
    if reduce_zero:
        labels = np.where((labels == 0) | (labels == IGNORE), IGNORE, labels - 1).astype(np.int16)
    labels[np.isin(labels, list(suppress))] = UNLABELLED
    return labels
