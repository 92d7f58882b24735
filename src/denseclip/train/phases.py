"""Who labels the unlabelled pixels in which training step (MaskCLIP, sections d.2 and d.3)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from denseclip.data.labels import IGNORE
from denseclip.errors import UserError
from denseclip.train.pseudo_labels import Evidence, LabelRule, assign_labels

Phase = Literal["guided", "self-training"]
Span = tuple[int, int | None]


@dataclass(frozen=True)
class Phases:
    """First and last step of guided learning and of self-training, counted from 1; None is "to the end".

    Published zero-shot runs: guided (1, n / 10 - 1), self-training (n / 10, None). Raises UserError for spans that
    are empty or overlap (with which the official code crashes).
    """

    guided: Span | None = (1, None)
    self_training: Span | None = None

    def __post_init__(self) -> None:
        for name, span in (("guided", self.guided), ("self-training", self.self_training)):
            if span is not None and not 1 <= span[0] <= (span[1] or span[0]):
                raise UserError(
                    f"phase {name} {list(span)} is empty; give first and last step, counted from 1"
                )
        if self.guided and self.self_training:
            first, second = sorted((self.guided, self.self_training), key=lambda span: span[0])
            if first[1] is None or first[1] >= second[0]:
                raise UserError(
                    f"phases guided {list(self.guided)} and self-training {list(self.self_training)} overlap; "
                    "end one before the other starts"
                )

    def at(self, step: int) -> Phase | None:
        """The phase of a step, counted from 1 over the whole run, so that resuming changes nothing."""
        if _within(step, self.guided):
            return "guided"
        return "self-training" if _within(step, self.self_training) else None


@dataclass(frozen=True)
class Labeller:
    """The labels of every step: the teacher's under `guided`, the student's under `own`."""

    phases: Phases
    guided: LabelRule
    own: LabelRule

    @torch.no_grad()
    def labels(
        self, step: int, gt: Tensor, *, teacher: Callable[[], Evidence], student: Callable[[], Evidence]
    ) -> Tensor:
        """What the loss of step `step` (from 1) sees.

        gt: (B, H, W) integers: a class that is shown, -1 hidden, 255 ignored. teacher, student: called only if their
        phase is on and a pixel is hidden; the student's evidence is of the forward pass that is trained.
        Returns (B, H, W) int64; pixels that nobody labels are 255. That no hidden class is shown is asserted.
        """
        phase = self.phases.at(step)
        labels = gt.long()
        if phase is not None and (labels < 0).any():
            rule = self.guided if phase == "guided" else self.own
            hidden = torch.tensor(rule.candidates, device=gt.device)
            assert not torch.isin(labels, hidden).any(), "hidden classes are in the labels"
            labels = assign_labels(labels, teacher() if phase == "guided" else student(), rule)
        return labels.masked_fill(labels < 0, IGNORE)


def _within(step: int, span: Span | None) -> bool:
    return span is not None and span[0] <= step and (span[1] is None or step <= span[1])
