"""Training of RetinaNet and Mask R-CNN guided by words, and of the CLIP baselines (denseclip section 5)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denseclip.clip import load_clip
from denseclip.data.things import ThingsDataset
from denseclip.detection.config import DetectorConfig, guidance_config
from denseclip.detection.model import Detector, build_detector
from denseclip.detection.predict import contents_of, draw_things
from denseclip.errors import UserError
from denseclip.models.build import shapes_for
from denseclip.train.guided_task import GuidedTask, with_sum
from denseclip.train.recipe import TrainRecipe
from denseclip.train.samples import normalised
from denseclip.train.things_samples import ThingsBatch

PANEL = 4  # pictures on a panel
SHOWN = 0.3  # score from which a box is on it


class DetectionTask(GuidedTask[ThingsBatch]):
    """A detector learns from boxes, and Mask R-CNN from masks."""

    model: Detector

    def forward(self, batch: ThingsBatch, step: int) -> dict[str, Tensor]:
        """The losses of the head, of the score map ("scores"), and their sum."""
        del step
        return with_sum(self.model.loss(normalised(batch, self.stats), batch.extent, batch.instances))

    @torch.no_grad()
    def panel(self, batch: ThingsBatch, step: int) -> NDArray[np.uint8] | None:
        """Above the images with what is there, below with what is found."""
        del step
        self.eval()
        some = batch.first(PANEL)
        found = self.model(normalised(some, self.stats), some.extent)
        columns = []
        for image, truth, one in zip(some.images, some.instances, found, strict=True):
            picture, sure = image.permute(1, 2, 0).cpu().numpy(), one.scores > SHOWN  # (S, T, 3)
            there = draw_things(picture, truth.boxes.cpu().numpy(), truth.labels.tolist(), self.model.classes)
            boxes, labels = one.boxes[sure].float().cpu().numpy(), one.labels[sure].tolist()
            scores = one.scores[sure].tolist()
            columns.append(
                np.concatenate(
                    [there, draw_things(picture, boxes, labels, self.model.classes, scores=scores)]
                )
            )
        return np.concatenate(columns, axis=1)

    def contents(self) -> Mapping[str, Any]:
        """See `TrainedDetector.of`."""
        return contents_of(self.model, self.stats, self.recipe.detection.resize)


def build_detection_task(recipe: TrainRecipe, dataset: ThingsDataset, device: torch.device) -> DetectionTask:
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
