"""A picture with its labels, as the writers get it."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from denseclip.data.masks import ignore_index
from denseclip.dense.segmentation import Segmentation
from denseclip.dense.segmenter import Encoded, Segmenter
from denseclip.errors import UserError
from denseclip.label.items import Item
from denseclip.label.regions import Regions, find_regions
from denseclip.vocabulary import BACKGROUND

Confidence = Literal["regions", "pixels"]


@dataclass(frozen=True)
class Rules:
    """What of a model's answer becomes a label.

    min_area: regions of fewer pixels are taken out: background where there is one, else void. void_below: pixels
    whose probability is lower become void. confidence: "regions": a score in every annotation, from the soft-max
    at the network's own resolution; "pixels": that of every pixel at full resolution, which costs more, as a map.

    Raises UserError for values that cannot be meant.
    """

    min_area: int = 0
    void_below: float | None = None
    confidence: Confidence | None = None

    def __post_init__(self) -> None:
        if self.min_area < 0:
            raise UserError(f"min-area {self.min_area} is no number of pixels; give 0 or more")
        if self.void_below is not None and not 0 < self.void_below < 1:
            raise UserError(f"void-below {self.void_below:g} is no probability; give one between 0 and 1")
        if self.confidence not in (None, *get_args(Confidence)):
            raise UserError(f"confidence {self.confidence!r} is unknown; choose regions or pixels")

    @property
    def exact(self) -> bool:
        """Whether probabilities are needed at every pixel."""
        return self.confidence == "pixels" or self.void_below is not None


@dataclass(frozen=True)
class Labels:
    """What mask values mean. The first class is left out of annotations if it is called "background"."""

    classes: tuple[str, ...]

    @property
    def background(self) -> bool:
        """Whether class 0 is the background."""
        return self.classes[0].strip().lower() == BACKGROUND

    @property
    def void(self) -> int:
        """The value of pixels without a label: 255, or 65535 from 256 classes on."""
        return ignore_index(len(self.classes))

    @property
    def things(self) -> tuple[str, ...]:
        """The classes without the background."""
        return self.classes[1:] if self.background else self.classes

    @property
    def first(self) -> int:
        """The mask value of `things[0]`."""
        return int(self.background)


@dataclass(frozen=True)
class Labelled:
    """A picture of H x W pixels with its labels.

    position: its number in the job. image: (H, W, 3) uint8 RGB. mask: (H, W) uint8 or int32: class, or void.
    confidence: (H, W) float32 in 0..1. regions: without void and background. result: what the model said.
    """

    item: Item
    position: int
    labels: Labels
    image: NDArray[np.uint8]
    mask: NDArray[np.integer]
    confidence: NDArray[np.float32]
    regions: Regions
    result: Segmentation

    @cached_property
    def scores(self) -> list[float]:
        """The mean confidence of each region."""
        return [round(float(value), 4) for value in self.regions.means(self.confidence)]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.mask.shape[0], self.mask.shape[1]


def label_picture(
    segmenter: Segmenter, encoded: Encoded, item: Item, position: int, labels: Labels, rules: Rules
) -> Labelled:
    """Segment, and apply the rules. Raises UserError where the model does."""
    result = segmenter.segment(encoded, confidence=rules.exact)
    confidence = result.confidence if result.confidence is not None else coarse_confidence(segmenter, result)
    mask = result.mask if labels.void == 255 else result.mask.astype(np.int32)
    if rules.void_below is not None:
        mask = np.where(confidence < rules.void_below, mask.dtype.type(labels.void), mask)
    leave_out = (labels.void, 0) if labels.background else (labels.void,)
    regions = find_regions(mask, leave_out)
    small = regions.area < rules.min_area
    if small.any():
        taken_out = regions.only(small).paint(np.ones(int(small.sum()), np.int64)) > 0
        mask = np.where(taken_out, mask.dtype.type(0 if labels.background else labels.void), mask)
        regions = regions.only(~small)
    kept = replace(result, mask=mask, void=labels.void)
    return Labelled(item, position, labels, result.image, mask, confidence, regions, kept)


@torch.inference_mode()
def coarse_confidence(segmenter: Segmenter, result: Segmentation) -> NDArray[np.float32]:
    """The winner's soft-max probability at the network's resolution, spread to (H, W) float32.

    Under key smoothing, whose scores are sums over neighbours, the winner's share.
    """
    scores = result.scores.float()  # (K, h, w)
    if segmenter.settings.refine.ks:
        top = scores.amax(0) / scores.abs().sum(0).clamp_min(1e-12)
    else:
        top = torch.softmax(scores * segmenter.clip.logit_scale, 0).amax(0)  # (h, w)
    height, width = result.mask.shape
    small = top.clamp(0, 1).cpu().numpy()
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
