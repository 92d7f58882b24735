"""What the loop asks of a task, and how a task shows itself: image, labels, prediction."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from denseclip.data.datasets import DatasetSpec
from denseclip.segment import paint
from denseclip.segment.paint import class_colors
from denseclip.train.batches import AnyBatch, Batch

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

    def visualize(self, batch: B, step: int) -> NDArray[np.uint8] | None:
        """A picture (H, W, 3) of how training goes, if there is one."""
        del batch, step
        return None

    def probe(self, step: int) -> dict[str, float]:
        """Figures on pictures held out, made without ground truth; "score": higher is better."""
        del step
        return {}

    @abstractmethod
    def metadata(self) -> Mapping[str, Any]:
        """Everything but weights that is needed to use the model later: plain values and tensors."""


GAP = 4  # pixels between pictures


def draw_panel(batch: Batch, labels: Tensor, predicted: Tensor, spec: DatasetSpec) -> NDArray[np.uint8]:
    """A row for each of B crops: the image, the labels that are trained on, the prediction; under it the legend.

    labels, predicted: (B, S, T), classes; what is none is not painted. Returns (H, W, 3) uint8 RGB.
    """
    palette = class_colors(spec.classes)
    rows = []
    for image, *masks in zip(batch.images, labels, predicted, strict=True):
        picture = image.permute(1, 2, 0).cpu().numpy()  # (S, T, 3)
        painted = [
            paint.overlay(picture, mask.cpu().numpy(), palette, clear=spec.background) for mask in masks
        ]
        rows.append(_beside([picture, *painted], axis=1))
    panel = _beside(rows, axis=0)
    found = torch.cat([labels.flatten(), predicted.flatten()]).unique().tolist()
    swatches = paint.tints(palette)
    entries = [paint.Entry(spec.classes[k], swatches[k].tolist()) for k in found if k < len(spec.classes)]
    return np.asarray(paint.with_legend(panel, entries))


def _beside(pictures: list[NDArray[np.uint8]], axis: int) -> NDArray[np.uint8]:
    shape = list(pictures[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, 255, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.concatenate(parts, axis=axis)
