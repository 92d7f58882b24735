"""Which task a recipe describes."""

import torch

from denseclip.data.datasets import SegmentationDataset
from denseclip.train.denseclip_task import build_denseclip_task
from denseclip.train.maskclip_plus import build_maskclip_plus
from denseclip.train.recipe import TrainRecipe
from denseclip.train.task import Task

BUILDERS = {"maskclip+": build_maskclip_plus, "denseclip": build_denseclip_task}


def build_task(recipe: TrainRecipe, dataset: SegmentationDataset, device: torch.device) -> Task:
    """The model with its losses; weights depend on torch's seed. Raises UserError for what cannot be built."""
    return BUILDERS[recipe.system](recipe, dataset, device)
