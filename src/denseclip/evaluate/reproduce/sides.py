"""What a claim compares."""

from dataclasses import dataclass

import torch
from torch import Tensor

from denseclip.evaluate.bootstrap import contrast


@dataclass(frozen=True)
class Side:
    """One thing compared: its name, its (images, K, 3) areas, and the names of the K classes."""

    name: str
    areas: Tensor
    classes: tuple[str, ...]

    @property
    def miou(self) -> float:
        """Percent."""
        return contrast([self.areas], [1.0], n=1).miou * 100


def chance(areas: Tensor) -> Tensor:
    """Areas (images, K, 3) that guessing has on average: every class equally likely at every pixel."""
    truth, classes = areas[..., 2].double(), areas.shape[1]
    guessed = truth.sum(1, keepdim=True) / classes  # (images, 1) pixels given to each class
    right = truth / classes
    return torch.stack([right, truth + guessed - right, truth], -1)
