"""The confusion matrix, its figures, and their intervals over images."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denseclip.errors import UserError


@dataclass(frozen=True)
class Summary:
    """Means over a group of classes, as fractions; nan where no class of the group occurs.

    `miou` and `macc` are means over the classes that occur; `pacc` is the group's correct pixels over its
    pixels.
    """

    miou: float
    pacc: float
    macc: float


class ConfusionMatrix:
    """Counts of (true class, predicted class) over pixels, exact and independent of batching and order.

    `matrix` is int64 (K, K) on `device`: rows are the truth, columns the prediction. With `per_image` the
    intersection, union and size of every class are also kept for every image, for `paired_bootstrap`.
    """

    def __init__(
        self, num_classes: int, device: torch.device | str = "cpu", *, per_image: bool = False
    ) -> None:
        assert num_classes > 0
        self.num_classes = num_classes
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        self._per_image: list[Tensor] | None = [] if per_image else None

    def update(self, prediction: Tensor, target: Tensor, ignore_index: int = 255) -> None:
        """Count a batch.

        prediction, target: integer ids, (N, H, W) or (H, W), of equal shape. Pixels whose target is
        `ignore_index` are not counted, whatever is predicted there.
        Raises UserError if any other id lies outside 0..K-1.
        """
        assert prediction.shape == target.shape
        images = len(target) if target.ndim == 3 and self._per_image is not None else 1
        truth = target.to(self.matrix.device, torch.int64).reshape(images, -1)  # (N or 1, pixels)
        guess = prediction.to(self.matrix.device, torch.int64).reshape(images, -1)
        ignored = truth == ignore_index
        self._check(truth.masked_fill(ignored, 0), "mask")
        self._check(guess.masked_fill(ignored, 0), "prediction")
        cells = self.num_classes**2
        index = (truth * self.num_classes + guess).masked_fill(ignored, cells)
        if images > 1:
            index += torch.arange(images, device=index.device)[:, None] * (cells + 1)
        counts = torch.bincount(index.flatten(), minlength=images * (cells + 1)).view(images, cells + 1)
        counts = counts[:, :cells].reshape(images, self.num_classes, self.num_classes)  # the ignored fall off
        self.matrix += counts.sum(0)
        if self._per_image is not None:
            self._per_image.append(_areas(counts).cpu())

    def _check(self, ids: Tensor, what: str) -> None:
        if not ids.numel():
            return
        low, high = ids.aminmax()
        wrong = int(low if low < 0 else high)
        if not 0 <= wrong < self.num_classes:
            raise UserError(
                f"{what} has class id {wrong}, but only 0..{self.num_classes - 1} are declared: "
                "declare the class, or mark those pixels as ignored"
            )

    def merge(self, other: "ConfusionMatrix") -> None:
        """Add the counts of another matrix over the same classes (its images follow this one's)."""
        assert self.num_classes == other.num_classes
        assert (self._per_image is None) == (other._per_image is None)
        self.matrix += other.matrix.to(self.matrix.device)
        if self._per_image is not None and other._per_image is not None:
            self._per_image.extend(other._per_image)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to go on counting later: tensors on the CPU."""
        state = {"matrix": self.matrix.cpu().clone()}
        return state if self._per_image is None else state | {"per_image": self.per_image}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict()`; raises UserError if it counts other classes or lacks the images."""
        keys = {"matrix"} if self._per_image is None else {"matrix", "per_image"}
        if state.keys() != keys or state["matrix"].shape != self.matrix.shape:
            raise UserError(
                f"the saved counts do not fit this evaluation of {self.num_classes} classes: "
                "remove them and start the evaluation again"
            )
        self.matrix.copy_(state["matrix"])
        if self._per_image is not None:
            self._per_image = [state["per_image"]]

    @property
    def per_image(self) -> Tensor:
        """int64 (images, K, 3) in the order of `update`: intersection, union and truth of every class."""
        assert self._per_image is not None, "made without per_image=True"
        if not self._per_image:
            return torch.zeros(0, self.num_classes, 3, dtype=torch.int64)
        return torch.cat(self._per_image)

    def iou(self) -> Tensor:
        """Intersection over union: float64 (K,) on the CPU, nan for a class neither true nor predicted."""
        intersection, union, _ = _areas(self.matrix[None])[0].cpu().double().unbind(-1)
        return intersection / union

    def accuracy(self) -> Tensor:
        """Correct over true pixels: float64 (K,) on the CPU, nan for a class that is never true."""
        intersection, _, truth = _areas(self.matrix[None])[0].cpu().double().unbind(-1)
        return intersection / truth

    def precision(self) -> Tensor:
        """Correct over predicted pixels: float64 (K,) on the CPU, nan for a class never predicted."""
        return (self.matrix.diagonal().double() / self.matrix.sum(0)).cpu()

    def summary(self, classes: Sequence[int] | None = None) -> Summary:
        """Means over `classes` (indices; all if None) of the one joint prediction."""
        chosen = (
            torch.arange(self.num_classes) if classes is None else torch.tensor(classes, dtype=torch.int64)
        )
        correct, truth = self.matrix.diagonal().cpu()[chosen].sum(), self.matrix.sum(1).cpu()[chosen].sum()
        return Summary(
            miou=float(self.iou()[chosen].nanmean()),
            pacc=float(correct.double() / truth),
            macc=float(self.accuracy()[chosen].nanmean()),
        )

    def report(self, seen: Sequence[int], unseen: Sequence[int]) -> dict[str, Any]:
        """Summaries of `all`, `seen` and `unseen` (present where the group has classes) and `hiou`."""
        groups = {"seen": seen, "unseen": unseen} if seen and unseen else {}
        found: dict[str, Any] = {"all": self.summary()} | {k: self.summary(v) for k, v in groups.items()}
        if groups:
            found["hiou"] = harmonic_mean(found["seen"].miou, found["unseen"].miou)
        return found


def _areas(counts: Tensor) -> Tensor:
    """(N, K, K) counts -> (N, K, 3): intersection, union and truth of every class."""
    intersection = counts.diagonal(dim1=1, dim2=2)
    truth, guess = counts.sum(2), counts.sum(1)  # (N, K)
    return torch.stack([intersection, truth + guess - intersection, truth], dim=-1)


def harmonic_mean(seen: float, unseen: float) -> float:
    """2SU/(S+U): hIoU of the two groups' mIoU; 0 if both are 0, nan if either is nan."""
    total = seen + unseen
    return 0.0 if total == 0 else 2 * seen * unseen / total


def percent(fraction: float, digits: int = 2) -> float:
    """Percent with the papers' two decimals; nan stays nan."""
    return fraction if math.isnan(fraction) else round(fraction * 100, digits)


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
