"""What is in a picture: boxes, classes, masks."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass  # not frozen: Fabric takes it apart and puts it together again
class Instances:
    """N things to be found. boxes: (N, 4) float32, x0, y0, x1, y1 in pixels; labels: (N,) int64 from 0.

    masks: (N, H, W) uint8 of the padded image, or None where they are not needed.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None

    def to(self, device: torch.device) -> "Instances":
        """The same on a device."""
        masks = None if self.masks is None else self.masks.to(device, non_blocking=True)
        return Instances(self.boxes.to(device), self.labels.to(device), masks)

    def for_torchvision(self, first: int = 0) -> dict[str, Tensor]:
        """As its detectors take them, the first class being `first`."""
        found = {"boxes": self.boxes, "labels": self.labels + first}
        return found if self.masks is None else found | {"masks": self.masks}


@dataclass  # not frozen: Fabric takes it apart and puts it together again
class Detections:
    """N things that were found, best first: boxes (N, 4), scores (N,) in 0..1, labels (N,) int64 from 0.

    masks: (N, 1, 28, 28) probabilities within the boxes, or None.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None
