"""Training of DenseCLIP for segmentation, and of the fine-tuned CLIP it is compared with (denseclip section 4)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from denseclip.clip import ImageStats, load_clip
from denseclip.data.datasets import SegmentationDataset
from denseclip.errors import UserError
from denseclip.models.build import build_denseclip, shapes_for
from denseclip.models.config import DenseClipConfig
from denseclip.models.denseclip import DenseClipSegmenter
from denseclip.models.trained import contents_of
from denseclip.train.guided_task import GuidedTask, with_sum
from denseclip.train.panels import draw_panel
from denseclip.train.recipe import TrainRecipe
from denseclip.train.samples import Batch, normalised

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
        return with_sum(self.model.loss(normalised(batch, self.stats), batch.labels))

    @torch.no_grad()
    def panel(self, batch: Batch, step: int) -> NDArray[np.uint8] | None:
        """Image, annotation, prediction."""
        del step
        self.eval()
        some = batch.first(PANEL)
        size = (some.labels.shape[1], some.labels.shape[2])
        logits = self.model(normalised(some, self.stats)).float()
        predicted = F.interpolate(logits, size, mode="bilinear").argmax(1)
        return draw_panel(some, some.labels, predicted, self.dataset.spec)

    def contents(self) -> Mapping[str, Any]:
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
