"""Pictures labeled by a detector: each thing is a region of its own, what is around them is background."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from denseclip.clip.device import processor
from denseclip.detection.predict import SCORE, DetectionResult, TrainedDetector, paint_instances
from denseclip.errors import UserError
from denseclip.label.labelled import Labeled, Labels, Rules
from denseclip.label.sources import Item
from denseclip.segment.segmentation import Segmentation
from denseclip.text import BACKGROUND


@dataclass(frozen=True)
class InstanceLabeler:
    """A `Labeler` whose model is a detector. Things whose score is `threshold` or more are labeled.

    A pixel's confidence is the score of the best thing there; where that is below the threshold, and the pixel
    background, 1 - score. Without masks, regions are the boxes, in whole pixels.

    Raises UserError for a threshold that is no score.
    """

    detector: TrainedDetector
    threshold: float = SCORE

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(f"threshold {self.threshold:g} is no score; give one between 0 and 1")

    @property
    def name(self) -> str:
        """See `Labeler`."""
        return f"denseclip {self.detector.name}"

    @property
    def labels(self) -> Labels:
        """See `Labeler`."""
        return Labels((BACKGROUND, *self.detector.classes), self.detector.masks)

    @property
    def machine(self) -> str:
        """See `Labeler`."""
        return f"fp32, {processor(self.detector.device)}"

    def identity(self) -> dict[str, Any]:
        """See `Labeler`."""
        detector = self.detector
        return {
            "model": f"{self.name}, {detector.fingerprint[:16]}, {detector.device.type}",
            "threshold": self.threshold,
            "resize": str(detector.resize),
        }

    batch = 1

    def encode(self, images: list[NDArray[np.uint8]], rules: Rules) -> list[DetectionResult]:
        """See `Labeler`."""
        return [self.detector.detect(image) for image in images]

    def label(self, encoded: DetectionResult, item: Item, position: int, rules: Rules) -> Labeled:
        """See `Labeler`. What is too small is taken out before the best is painted on top."""
        labels, (regions, scores) = self.labels, encoded.regions()
        large = regions.area >= rules.min_area
        regions, scores = regions.only(large), scores[large]
        mask, confidence = paint_instances(regions, scores, self.threshold)
        if rules.min_confidence is not None:
            mask[confidence < rules.min_confidence] = labels.void
        mask = mask.astype(np.uint8 if labels.void == 255 else np.int32)
        kept = scores >= max(self.threshold, rules.min_confidence or 0)
        return Labeled(
            item,
            position,
            labels,
            encoded.image,
            mask,
            confidence,
            regions.only(kept),
            painted(encoded.image, mask, labels),
            scores[kept],
        )


def painted(image: NDArray[np.uint8], mask: NDArray[np.integer], labels: Labels) -> Segmentation:
    """A mask without scores behind it."""
    none = torch.zeros(0, 1, 1)
    return Segmentation(mask, labels.classes, none, image, None, (), _no_heat, True, labels.void)


def _no_heat(_: int) -> NDArray[np.float32]:
    raise AssertionError("there are no scored classes")
