"""Decoding where scores at picture size are needed one class after the other: PAMR, and protocols by word."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from denseclip.segment.decode import Confidence, Prediction
from denseclip.segment.refine import DILATIONS, pamr_steps, pamr_weights

BLOCK = 16  # pixels; a class is left out of PAMR if it cannot win in any block
MOST_SCORES = 1 << 22  # full-size scores that are held together


@dataclass(frozen=True)
class Planes:
    """The full-size scores of one picture. maps: some classes (k, H, W) by index. weights: of PAMR, or None."""

    maps: Callable[[Tensor], Tensor]
    classes: int
    size: tuple[int, int]
    weights: Tensor | None = None
    steps: int = 0

    @classmethod
    def of(
        cls,
        maps: Callable[[Tensor], Tensor],
        classes: int,
        size: tuple[int, int],
        guide: Tensor | None,
        steps: int,
    ) -> "Planes":
        """guide: (1, 3, H, W), the picture that PAMR follows for `steps` steps; None for no PAMR."""
        return cls(maps, classes, size, None if guide is None else pamr_weights(guide), steps)

    def some(self, classes: Tensor) -> Tensor:
        """The scores (k, H, W) of some classes, refined."""
        return self._refined(self.maps(classes).float())

    def _refined(self, full: Tensor) -> Tensor:
        if self.weights is None or not len(full):
            return full
        return pamr_steps(full[None], self.weights, DILATIONS, self.steps)[0]

    def decode(
        self, kind: Confidence | None, temperature: float, among: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Best class (H, W) int64, its score, and the log of the sum of exp(temperature x score), if kind needs it.

        among: indices of the classes that may win; all count in the sum. Where the sum is not asked for, classes that
        cannot win anywhere are not refined: PAMR's results are means of scores within its reach, so one whose highest
        score there is below the lowest refined winner of every block is out. That is exact.
        """
        device = self.maps(torch.zeros(1, dtype=torch.int64)).device
        best = torch.full(self.size, -torch.inf, device=device)
        ids = torch.zeros(self.size, dtype=torch.int64, device=device)
        total = torch.full(self.size, -torch.inf, device=device) if kind == "probability" else None
        order = torch.arange(self.classes)
        several = max(1, MOST_SCORES // (self.size[0] * self.size[1]))
        for part in order.split(several):
            full = self.maps(part).float()  # (k, H, W)
            if total is None and self.weights is not None:
                may = self._may_win(full, best)
                part, full = part[may.cpu()], full[may]
            full = self._refined(full)
            if total is not None:
                total = torch.logaddexp(total, (full * temperature).logsumexp(0))
            if among is not None:
                keep = torch.isin(part, among)
                part, full = part[keep], full[keep.to(device)]
            if not len(part):
                continue
            top, place = full.max(0)
            better = top > best
            best, ids = torch.where(better, top, best), torch.where(better, part.to(device)[place], ids)
        return ids, best, total

    def _may_win(self, full: Tensor, best: Tensor) -> Tensor:
        """Which classes (k, H, W) may still be above `best` (H, W) somewhere, once refined; (k,) bool."""
        if not best.isfinite().all():
            return torch.ones(len(full), dtype=torch.bool, device=full.device)
        height, width = self.size
        pad = (0, -width % BLOCK, 0, -height % BLOCK)
        high = F.max_pool2d(F.pad(full[None], pad, value=-torch.inf), BLOCK)[0]  # (k, h, w)
        low = -F.max_pool2d(F.pad(-best[None, None], pad, value=-torch.inf), BLOCK)[0, 0]  # (h, w)
        reach = -(-max(DILATIONS) * self.steps // BLOCK)
        high = F.max_pool2d(high[None], 2 * reach + 1, 1, reach)[0]
        return (high > low).flatten(1).any(1)


def decode_planes(
    planes: Planes, kind: Confidence | None, temperature: float, threshold: float | None, void: int
) -> Prediction:
    """As `decode.decode` for one picture, (H, W)."""
    ids, best, total = planes.decode(kind, temperature)
    if total is not None:
        best = torch.exp(best * temperature - total)
    if threshold is not None:
        ids = torch.where(best < threshold, void, ids)
    return Prediction(ids.to(torch.int32), best if kind else None)


def decode_words(
    planes: Planes, owner: Tensor, temperature: float, threshold: float | None, area: float
) -> Prediction:
    """Classes (H, W) of word scores, and their probability, as the official segmenters find them.

    owner: (P,) the class of each word. The soft-max is over words, and a class has its best word's. Foreground
    classes of at most `area` of all foreground pixels are left out; pixels below `threshold` get class 0.
    """
    ids, best, total = planes.decode("probability", temperature)
    assert total is not None
    classes = owner.to(ids.device)[ids]
    if area:
        counts = torch.bincount(classes.flatten(), minlength=int(owner.max()) + 1)
        dropped = counts <= area * counts[1:].sum()
        dropped[0] = False
        if dropped.any():
            among = (~dropped.cpu()[owner.cpu()]).nonzero()[:, 0]
            ids, best, _ = planes.decode(None, temperature, among)
            classes = owner.to(ids.device)[ids]
    sure = torch.exp(best * temperature - total)
    if threshold is not None:
        classes = torch.where(sure < threshold, 0, classes)
    return Prediction(classes.to(torch.int32), sure)
