"""Is one model better than another, or was it the choice of images?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Difference:
    """mIoU of the first model minus that of the second, with the 95 % interval over images (fractions)."""

    miou: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    per_image_a: Tensor,
    per_image_b: Tensor,
    n: int = 2000,
    seed: int = 0,
    classes: Sequence[int] | None = None,
) -> Difference:
    """Resample the images `n` times, the same ones for both models, and compare the exact mIoU of the totals.

    per_image_a, per_image_b: `ConfusionMatrix.per_image`, (images, K, 3), of the same images in the same
    order. classes: indices of the group to average over; all if None.
    The interval runs from the 2.5th to the 97.5th percentile (Efron's percentile interval).
    """
    assert per_image_a.shape == per_image_b.shape
    assert len(per_image_a) > 0
    chosen = slice(None) if classes is None else list(classes)
    areas = np.stack([x[:, chosen, :2].double().numpy() for x in (per_image_a, per_image_b)], 1)
    images = len(areas)  # areas: (images, 2 models, K, 2)
    flat = areas.reshape(images, -1)
    rng = np.random.default_rng(seed)
    sampled = []
    for start in range(0, n, 256):  # a chunk keeps the draws of 256 x images in memory
        draws = rng.multinomial(images, np.full(images, 1 / images), size=min(256, n - start))
        sampled.append(_difference((draws.astype(np.float64) @ flat).reshape(-1, *areas.shape[1:])))
    low, high = np.nanpercentile(np.concatenate(sampled), [2.5, 97.5])
    return Difference(float(_difference(areas.sum(0)[None])[0]), float(low), float(high))


def _difference(totals: np.ndarray) -> np.ndarray:
    """(n, 2 models, K, 2) intersections and unions -> (n,) difference of the two mIoU."""
    intersection, union = totals[..., 0], totals[..., 1]
    present = union > 0
    iou = np.divide(intersection, union, out=np.zeros_like(union), where=present)
    count = present.sum(-1)
    miou = np.divide(iou.sum(-1), count, out=np.full(count.shape, np.nan), where=count > 0)  # (n, 2)
    return miou[:, 0] - miou[:, 1]
