"""Which task a recipe describes: DenseCLIP, detectors, MaskCLIP+; and the batches it learns from."""

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from denseclip.clip import ImageStats, load_clip
from denseclip.data.datasets import SegmentationDataset
from denseclip.data.instances import InstanceDataset
from denseclip.detection.config import DetectorConfig, guidance_config
from denseclip.detection.model import Detector, build_detector
from denseclip.detection.predict import detector_contents, draw_instances
from denseclip.errors import UserError
from denseclip.models.config import DenseClipConfig
from denseclip.models.denseclip import (
    DenseCLIPBase,
    DenseClipSegmenter,
    build_denseclip,
    param_groups,
    shapes_for,
)
from denseclip.models.trained import contents_of
from denseclip.train.batches import (
    AnyBatch,
    Batch,
    EndlessBatches,
    Share,
    ThingsBatch,
    ThingsBatches,
    TrainingBatches,
    normalized,
)
from denseclip.train.maskclip_plus import build_maskclip_plus
from denseclip.train.recipe import TrainRecipe
from denseclip.train.task import Task, draw_panel

B = TypeVar("B", bound=AnyBatch)


class GuidedTask(Task[B], Generic[B]):
    """A network that words guide, or its baseline without words."""

    model: DenseCLIPBase

    def __init__(self, model: DenseCLIPBase, stats: ImageStats, recipe: TrainRecipe) -> None:
        """stats: how pixels are normalized."""
        super().__init__()
        self.model, self.stats, self.recipe = model, stats, recipe

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `param_groups`."""
        part = self.recipe.optimizer
        groups = param_groups(self.model, lr=part.lr, weight_decay=part.weight_decay)
        return [{k: v for k, v in group.items() if k != "names"} for group in groups]


def with_sum(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scalar losses and their sum, "loss"."""
    return losses | {"loss": torch.stack(list(losses.values())).sum()}


PANEL = 4  # pictures on a panel


class DenseClipTask(GuidedTask[Batch]):
    """A DenseCLIP learns from annotation."""

    model: DenseClipSegmenter

    def __init__(
        self, model: DenseClipSegmenter, stats: ImageStats, recipe: TrainRecipe, dataset: SegmentationDataset
    ) -> None:
        super().__init__(model, stats, recipe)
        self.dataset = dataset

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The cross entropy of the head ("decode"), that of the score map ("aux"), and their sum."""
        del step
        return with_sum(self.model.loss(normalized(batch, self.stats), batch.labels))

    @torch.no_grad()
    def visualize(self, batch: Batch, step: int) -> NDArray[np.uint8] | None:
        """Image, annotation, prediction."""
        del step
        self.eval()
        some = batch.first(PANEL)
        size = (some.labels.shape[1], some.labels.shape[2])
        logits = self.model(normalized(some, self.stats)).float()
        predicted = F.interpolate(logits, size, mode="bilinear").argmax(1)
        return draw_panel(some, some.labels, predicted, self.dataset.spec)

    def metadata(self) -> Mapping[str, Any]:
        """See `TrainedDenseClip.of`."""
        return contents_of(self.model, self.stats)


def build_denseclip_task(
    recipe: TrainRecipe, dataset: SegmentationDataset, device: torch.device
) -> DenseClipTask:
    """The model of a recipe for the classes of a data set; new weights depend on torch's seed.

    Each class is looked for by the first of its words. Raises UserError for what does not fit together.
    """
    part = recipe.denseclip
    config = DenseClipConfig.from_dict(part.config)
    clip = load_clip(part.clip)
    names = [words[0] for words in dataset.spec.prompts]
    if part.weights == "clip":
        model = build_denseclip(config, clip, names)
    elif config.language:
        raise UserError('weights = "random" is for the baseline without words; add config.language = false')
    else:
        model = build_denseclip(config, shapes_for(config, clip), names, tokenize=clip.tokenizer)
    return DenseClipTask(model.to(device), clip.stats, recipe, dataset)


SHOWN = 0.3  # score from which a box is on it


class DetectionTask(GuidedTask[ThingsBatch]):
    """A detector learns from boxes, and Mask R-CNN from masks."""

    model: Detector

    def forward(self, batch: ThingsBatch, step: int) -> dict[str, Tensor]:
        """The losses of the head, of the score map ("scores"), and their sum."""
        del step
        return with_sum(self.model.loss(normalized(batch, self.stats), batch.extent, batch.instances))

    @torch.no_grad()
    def visualize(self, batch: ThingsBatch, step: int) -> NDArray[np.uint8] | None:
        """Above the images with what is there, below with what is found."""
        del step
        self.eval()
        some = batch.first(PANEL)
        found = self.model(normalized(some, self.stats), some.extent)
        columns = []
        for image, truth, one in zip(some.images, some.instances, found, strict=True):
            picture, sure = image.permute(1, 2, 0).cpu().numpy(), one.scores > SHOWN  # (S, T, 3)
            there = draw_instances(
                picture, truth.boxes.cpu().numpy(), truth.labels.tolist(), self.model.classes
            )
            boxes, labels = one.boxes[sure].float().cpu().numpy(), one.labels[sure].tolist()
            scores = one.scores[sure].tolist()
            columns.append(
                np.concatenate(
                    [there, draw_instances(picture, boxes, labels, self.model.classes, scores=scores)]
                )
            )
        return np.concatenate(columns, axis=1)

    def metadata(self) -> Mapping[str, Any]:
        """See `TrainedDetector.of`."""
        return detector_contents(self.model, self.stats, self.recipe.detection.resize)


def build_detection_task(
    recipe: TrainRecipe, dataset: InstanceDataset, device: torch.device
) -> DetectionTask:
    """The detector of a recipe for the classes of a data set; new weights depend on torch's seed.

    Raises UserError for what does not fit together.
    """
    part = recipe.denseclip
    config, detector = guidance_config(part.config), DetectorConfig.from_dict(recipe.detection.config)
    clip = load_clip(part.clip)
    if part.weights == "clip":
        model = build_detector(config, detector, clip, dataset.classes)
    elif config.language:
        raise UserError('weights = "random" is for the baseline without words; add config.language = false')
    else:
        shapes = shapes_for(config, clip)
        model = build_detector(config, detector, shapes, dataset.classes, tokenize=clip.tokenizer)
    return DetectionTask(model.to(device), clip.stats, recipe)


BUILDERS = {"maskclip+": build_maskclip_plus, "denseclip": build_denseclip_task}
TrainingData = SegmentationDataset | InstanceDataset


def build_task(recipe: TrainRecipe, dataset: TrainingData, device: torch.device) -> Task:
    """The model with its losses; weights depend on torch's seed. Raises UserError for what cannot be built."""
    if isinstance(dataset, InstanceDataset):
        return build_detection_task(recipe, dataset, device)
    return BUILDERS[recipe.system](recipe, dataset, device)


def make_batches(
    recipe: TrainRecipe, dataset: TrainingData, task: Task, share: Share, first: int
) -> EndlessBatches[Any]:
    """The batches of a training from optimizer step `first` (from 0) on."""
    if isinstance(dataset, InstanceDataset):
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
