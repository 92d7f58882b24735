"""Which task a recipe describes, and the batches it learns from."""

from typing import Any

import torch

from denseclip.data.datasets import SegmentationDataset
from denseclip.data.things import ThingsDataset
from denseclip.train.denseclip_task import build_denseclip_task
from denseclip.train.detection_task import build_detection_task
from denseclip.train.maskclip_plus import build_maskclip_plus
from denseclip.train.recipe import TrainRecipe
from denseclip.train.samples import EndlessBatches, Share, TrainingBatches
from denseclip.train.task import Task
from denseclip.train.things_samples import ThingsBatches

BUILDERS = {"maskclip+": build_maskclip_plus, "denseclip": build_denseclip_task}
TrainingData = SegmentationDataset | ThingsDataset


def build_task(recipe: TrainRecipe, dataset: TrainingData, device: torch.device) -> Task:
    """The model with its losses; weights depend on torch's seed. Raises UserError for what cannot be built."""
    if isinstance(dataset, ThingsDataset):
        return build_detection_task(recipe, dataset, device)
    return BUILDERS[recipe.system](recipe, dataset, device)


def make_batches(
    recipe: TrainRecipe, dataset: TrainingData, task: Task, share: Share, first: int
) -> EndlessBatches[Any]:
    """The batches of a training from optimiser step `first` (from 0) on."""
    if isinstance(dataset, ThingsDataset):
        masks = task.get_submodule("model.head").mask
        return ThingsBatches(
            dataset,
            recipe.detection.build(masks=bool(masks)),
            share,
            first=first,
            steps=recipe.steps,
            seed=recipe.seed,
        )
    return TrainingBatches(
        dataset,
        recipe.augment.build(dataset.spec.resize),
        share,
        first=first,
        steps=recipe.steps,
        seed=recipe.seed,
        hidden=task.hidden,
        everywhere=recipe.labels.ignore_mask == "none",
        skip_bad=recipe.data.classes is not None,
    )
