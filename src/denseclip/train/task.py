"""What the loop asks of a task."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from denseclip.train.batches import AnyBatch

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
