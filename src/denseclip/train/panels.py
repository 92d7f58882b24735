"""Panels of a training: image, labels, prediction."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denseclip.data.specs import DatasetSpec
from denseclip.segment import paint
from denseclip.segment.palette import class_colors
from denseclip.train.batches import Batch

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
