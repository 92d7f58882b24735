"""What the loop asks of a task, and schedules of the learning rate."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from denseclip.train.batches import AnyBatch


def poly_lr(
    iteration: int,
    max_iterations: int,
    base: float,
    *,
    power: float = 0.9,
    min_lr: float = 1e-4,
    warmup: int = 0,
    warmup_ratio: float = 1e-6,
) -> float:
    """Polynomial decay from `base` to `min_lr`, after a linear warm-up.

    lr = (base - min_lr) (1 - iteration / max_iterations)^power + min_lr, times
    1 - (1 - iteration / warmup) (1 - warmup_ratio) in the first `warmup` iterations. The defaults are MaskCLIP+'s
    (section d.3); DenseCLIP has min_lr 1e-6 and warmup 1500 (section 4.1) and calls this once a parameter group,
    with the group's own `base`.

    iteration: optimizer steps already made, so 0 for the first.
    """
    left = max(0.0, 1 - iteration / max_iterations)
    return ((base - min_lr) * left**power + min_lr) * _warm(iteration, warmup, warmup_ratio)


def step_lr(
    iteration: int,
    base: float,
    drops: Sequence[int],
    *,
    factor: float = 0.1,
    warmup: int = 0,
    warmup_ratio: float = 1e-3,
) -> float:
    """`base`, times `factor` for each of `drops` (in iterations) that lies behind; denseclip section 5.

    The same warm-up as `poly_lr`. iteration: optimizer steps already made.
    """
    passed = sum(iteration >= drop for drop in drops)
    return base * factor**passed * _warm(iteration, warmup, warmup_ratio)


def _warm(iteration: int, warmup: int, ratio: float) -> float:
    return 1 - (1 - iteration / warmup) * (1 - ratio) if iteration < warmup else 1.0


B = TypeVar("B", bound=AnyBatch)


class Task(nn.Module, ABC, Generic[B]):
    """A model under training with its losses. Its parameters and buffers are what is trained and saved.

    What is only looked up (a teacher, class names) must not be registered as a submodule.
    model: the network. hidden: classes whose labels are hidden from it.
    """

    model: nn.Module
    hidden: tuple[int, ...] = ()

    @abstractmethod
    def forward(self, batch: B, step: int) -> dict[str, Tensor]:
        """Scalars of optimizer step `step` (from 1); "loss" is the one to be minimized."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimizer; "rate" is a factor on the learning rate, "weight_decay" may differ."""

    def phase(self, step: int) -> str:
        """What happens in this step, for the progress line."""
        del step
        return "training"

    def panel(self, batch: B, step: int) -> NDArray[np.uint8] | None:
        """A picture (H, W, 3) of how training goes, if there is one."""
        del batch, step
        return None

    def probe(self, step: int) -> dict[str, float]:
        """Figures on pictures held out, made without ground truth; "score": higher is better."""
        del step
        return {}

    @abstractmethod
    def contents(self) -> Mapping[str, Any]:
        """Everything but weights that is needed to use the model later: plain values and tensors."""
