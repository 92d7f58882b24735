"""What training of DenseCLIP's segmenters and detectors shares."""

from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from denseclip.clip import ImageStats
from denseclip.models.build import param_groups
from denseclip.models.denseclip import LanguageGuided
from denseclip.train.recipe import TrainRecipe
from denseclip.train.samples import AnyBatch
from denseclip.train.task import Task

B = TypeVar("B", bound=AnyBatch)


class GuidedTask(Task[B], Generic[B]):
    """A network that words guide, or its baseline without words."""

    model: LanguageGuided

    def __init__(self, model: LanguageGuided, stats: ImageStats, recipe: TrainRecipe) -> None:
        """stats: how pixels are normalised."""
        super().__init__()
        self.model, self.stats, self.recipe = model, stats, recipe

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `param_groups`."""
        part = self.recipe.optimiser
        groups = param_groups(self.model, lr=part.lr, weight_decay=part.weight_decay)
        return [{k: v for k, v in group.items() if k != "names"} for group in groups]


def with_sum(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scalar losses and their sum, "loss"."""
    return losses | {"loss": torch.stack(list(losses.values())).sum()}
