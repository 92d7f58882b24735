"""Pictures labeled by words: every pixel gets one, what touches is a region."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from denseclip.label.labelled import Labeled, Labels, Rules
from denseclip.label.sources import Item
from denseclip.segment.engine import default_batch
from denseclip.segment.regions import find_regions
from denseclip.segment.segmentation import Segmentation
from denseclip.segment.segmenter import Segmenter


@dataclass(frozen=True)
class WordLabeller:
    """A `Labeler` whose model is a Segmenter with words."""

    segmenter: Segmenter

    @property
    def name(self) -> str:
        """See `Labeler`."""
        return f"denseclip {self.segmenter.clip.name}"

    @property
    def labels(self) -> Labels:
        """See `Labeler`."""
        return Labels(self.segmenter.classes)

    @property
    def machine(self) -> str:
        """See `Labeler`."""
        return self.segmenter.machine

    def identity(self) -> dict[str, Any]:
        """See `Labeler`."""
        model, settings, class_prompts = (
            self.segmenter.clip,
            self.segmenter.settings,
            self.segmenter.class_prompts,
        )
        return {
            "prompts": class_prompts.to_dict(),
            "templates": settings.templates,
            "model": f"{self.name}, {model.fingerprint[:16]}, {model.device.type}",
            "precision": str(getattr(model, "dtype", "")).removeprefix("torch."),
            "settings": settings.describe(),
        }

    @property
    def batch(self) -> int:
        """See `Labeler`."""
        return default_batch(self.segmenter.clip.device)

    def encode(self, images: list[NDArray[np.uint8]], rules: Rules) -> list[Callable[[], Segmentation]]:
        """See `Labeler`."""
        return self.segmenter.begin(images, confidence=rules.exact)

    def label(self, encoded: Callable[[], Segmentation], item: Item, position: int, rules: Rules) -> Labeled:
        """See `Labeler`. Raises UserError where the Segmenter does."""
        labels, result = self.labels, encoded()
        confidence = result.confidence if rules.exact else coarse_confidence(self.segmenter, result)
        assert confidence is not None
        mask = result.mask if labels.void == 255 else result.mask.astype(np.int32)
        if rules.min_confidence is not None:
            mask = np.where(confidence < rules.min_confidence, mask.dtype.type(labels.void), mask)
        rest = labels.void if labels.background is None else labels.background
        regions = find_regions(mask, (labels.void, rest))
        small = regions.area < rules.min_area
        if small.any():
            taken_out = regions.only(small).paint(np.ones(int(small.sum()), np.int64)) > 0
            mask = np.where(taken_out, mask.dtype.type(rest), mask)
            regions = regions.only(~small)
        kept = replace(result, mask=mask, void=labels.void)
        return Labeled(item, position, labels, result.image, mask, confidence, regions, kept)


@torch.inference_mode()
def coarse_confidence(segmenter: Segmenter, result: Segmentation) -> NDArray[np.float32]:
    """The winner's soft-max probability at the network's resolution, spread to (H, W) float32.

    Under key smoothing, whose scores are sums over neighbors, the winner's share.
    """
    scores = result.scores.float()  # (K, h, w)
    if segmenter.settings.refine.ks:
        top = scores.amax(0) / scores.abs().sum(0).clamp_min(1e-12)
    else:
        top = torch.softmax(scores * segmenter.clip.logit_scale, 0).amax(0)  # (h, w)
    height, width = result.mask.shape
    small = top.clamp(0, 1).cpu().numpy()
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
