"""Is one model better than another, or was it the choice of images?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Figure = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From areas (n, models, K, 3), summed over images, to figures (n, models)."""


@dataclass(frozen=True)
class Difference:
    """mIoU of the first model minus that of the second, with the 95 % interval over images (fractions).

    From `contrast`: the weighted sum of the models' mIoU.
    """

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
    """The first model's mIoU minus the second's; see `contrast`."""
    return contrast([per_image_a, per_image_b], [1.0, -1.0], n, seed, classes)


def contrast(
    per_images: Sequence[Tensor],
    weights: Sequence[float],
    n: int = 2000,
    seed: int = 0,
    classes: Sequence[int] | None = None,
    figure: "Figure | None" = None,
) -> Difference:
    """Resample the images `n` times, the same ones for all models, and weigh the exact mIoU of the totals.

    per_images: `ConfusionMatrix.per_image` of every model, (images, K, 3), of the same images in the same order.
    weights: one per model: [1, -1] for a difference, [1] for the figure itself. classes: indices of the group to
    average over; all if None. figure: another one than mIoU.
    The interval runs from the 2.5th to the 97.5th percentile (Efron's percentile interval). A class that is labelled
    in the images, but in none of those drawn, is left out of the draw's mean: it would count as zero wherever it is
    predicted, and drag the interval below the figure.
    """
    assert len({counts.shape for counts in per_images}) == 1
    assert len(per_images) == len(weights)
    assert len(per_images[0]) > 0
    chosen = slice(None) if classes is None else list(classes)
    figure = figure or _miou
    areas = np.stack([x[:, chosen].double().numpy() for x in per_images], 1)  # (images, models, K, 3)
    images = len(areas)
    labelled = areas[..., -1:].sum(0) > 0  # (models, K, 1)
    flat, factors = areas.reshape(images, -1), np.asarray(weights, np.float64)
    rng = np.random.default_rng(seed)
    sampled = []
    for start in range(0, n, 256):  # a chunk keeps the draws of 256 x images in memory
        draws = rng.multinomial(images, np.full(images, 1 / images), size=min(256, n - start))
        totals = (draws.astype(np.float64) @ flat).reshape(-1, *areas.shape[1:])
        sampled.append(figure(np.where(labelled & (totals[..., -1:] == 0), 0.0, totals)) @ factors)
    low, high = np.nanpercentile(np.concatenate(sampled), [2.5, 97.5])
    return Difference(float(figure(areas.sum(0)[None])[0] @ factors), float(low), float(high))


def _miou(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    return mean_of(totals[..., 0], totals[..., 1])


def mean_of(parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis of parts / wholes where there is a whole; nan where there is none at all."""
    present = wholes > 0
    shares = np.divide(parts, wholes, out=np.zeros_like(wholes), where=present)
    count = present.sum(-1)
    return np.divide(shares.sum(-1), count, out=np.full(count.shape, np.nan), where=count > 0)
