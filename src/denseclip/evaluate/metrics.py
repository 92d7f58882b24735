"""The confusion matrix, its figures, and their intervals over images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denseclip.errors import UserError


class ConfusionMatrix:
    """Counts of (true class, predicted class) over pixels, exact and independent of batching and order.

    `matrix` is int64 (K, K) on `device`: rows are the truth, columns the prediction. With `per_image` the
    intersection, union and size of every class are also kept for every image, for `contrast`.
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

    def summary(self, unseen: Sequence[int] = ()) -> dict[str, float]:
        """Fractions by name: mIoU, pAcc, mAcc of the one joint prediction.

        unseen: indices of classes; with them, and with others, also each figure of the seen (S) and the unseen (U)
        ones, and hIoU.
        """
        areas = _areas(self.matrix[None]).cpu().double().numpy()[:, None]  # (1, 1, K, 3)
        apart = 0 < len(unseen) < self.num_classes
        names = [f"{name}{group}" for group in ("", "(S)", "(U)")[: 3 if apart else 1] for name in _MEANS]
        names += ["hIoU"] if apart else []
        return {name: figure(name, self.num_classes, unseen)(areas).item() for name in names}


def _areas(counts: Tensor) -> Tensor:
    """(N, K, K) counts -> (N, K, 3): intersection, union and truth of every class."""
    intersection = counts.diagonal(dim1=1, dim2=2)
    truth, guess = counts.sum(2), counts.sum(1)  # (N, K)
    return torch.stack([intersection, truth + guess - intersection, truth], dim=-1)


Figure = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From areas (n, models, K, 3), summed over images, to fractions (n, models)."""
_MEANS = ("mIoU", "pAcc", "mAcc")


def figure(metric: str, classes: int, unseen: Sequence[int] = ()) -> Figure:
    """The figure of that name, such as "mIoU(U)", over `classes` classes of which some are unseen.

    mIoU and mAcc are means over the classes that occur, nan if none does; pAcc is the correct pixels of the group
    over its pixels; hIoU is 2SU / (S + U) of the groups' mIoU, 0 if both are 0 (maskclip section e).
    """
    if metric == "hIoU":
        first, second = (figure(f"mIoU({group})", classes, unseen) for group in "SU")
        return lambda areas: _harmonic(first(areas), second(areas))
    name, _, group = metric.partition("(")
    chosen = [k for k in range(classes) if not group or (k in unseen) == (group == "U)")]
    if name == "pAcc":
        return lambda areas: _ratio(areas[..., chosen, 0].sum(-1), areas[..., chosen, 2].sum(-1))
    whole = {"mIoU": 1, "mAcc": 2}[name]
    return lambda areas: _mean_of(areas[..., chosen, 0], areas[..., chosen, whole])


def _harmonic(seen: NDArray[np.float64], unseen: NDArray[np.float64]) -> NDArray[np.float64]:
    total = seen + unseen
    return np.divide(2 * seen * unseen, total, out=np.zeros_like(total), where=total != 0)


def _mean_of(parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis of parts / wholes where there is a whole; nan where there is none at all."""
    present = wholes > 0
    shares = np.divide(parts, wholes, out=np.zeros_like(wholes), where=present)
    return _ratio(shares.sum(-1), present.sum(-1))


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """part / whole, nan where there is no whole."""
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


@dataclass(frozen=True)
class Difference:
    """A weighted sum of models' figures, and its 95 % interval over images (fractions, or points where said)."""

    value: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def contrast(
    per_images: Sequence[Tensor],
    weights: Sequence[float],
    n: int = 2000,
    seed: int = 0,
    of: Figure | None = None,
) -> Difference:
    """Resample the images `n` times, the same ones for all models, and weigh the exact figures of the totals.

    per_images: `ConfusionMatrix.per_image` of every model, (images, K, 3), of the same images in the same order.
    weights: one per model: [1, -1] for a difference, [1] for the figure itself. of: see `figure`; mIoU if None.
    The interval runs from the 2.5th to the 97.5th percentile (Efron's percentile interval). A class that is labeled
    in the images, but in none of those drawn, is left out of the draw's mean: it would count as zero wherever it is
    predicted, and drag the interval below the figure.
    """
    assert len({counts.shape for counts in per_images}) == 1
    assert len(per_images) == len(weights)
    assert len(per_images[0]) > 0
    of = of or figure("mIoU", per_images[0].shape[1])
    areas = np.stack([x.double().numpy() for x in per_images], 1)  # (images, models, K, 3)
    images = len(areas)
    labeled = areas[..., -1:].sum(0) > 0  # (models, K, 1)
    flat, factors = areas.reshape(images, -1), np.asarray(weights, np.float64)
    rng = np.random.default_rng(seed)
    sampled = []
    for start in range(0, n, 256):  # a chunk keeps the draws of 256 x images in memory
        draws = rng.multinomial(images, np.full(images, 1 / images), size=min(256, n - start))
        totals = (draws.astype(np.float64) @ flat).reshape(-1, *areas.shape[1:])
        sampled.append(of(np.where(labeled & (totals[..., -1:] == 0), 0.0, totals)) @ factors)
    low, high = np.nanpercentile(np.concatenate(sampled), [2.5, 97.5])
    return Difference(float(of(areas.sum(0)[None])[0] @ factors), float(low), float(high))
