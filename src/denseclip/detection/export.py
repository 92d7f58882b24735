"""RetinaNet as a file that runs without this library."""

from copy import deepcopy
from math import log
from pathlib import Path

import torch
from torch import Tensor, nn

from denseclip.clip import ImageStats
from denseclip.detection.model import Detector
from denseclip.detection.predict import CELL, TrainedDetector
from denseclip.detection.retinanet import Anchors, RetinaHead
from denseclip.errors import UserError
from denseclip.models.denseclip import FixedTexts
from denseclip.models.export import ExportFormat, write_graph

OUTPUTS = ("boxes", "scores")
LARGEST = log(1000 / 16)  # logarithm of how much larger than its anchor a box may be


class ExportedRetinaNet(nn.Module):
    """Pixels to boxes: normalization, network and decoding in one graph, without the choice among them.

    Input (B, 3, H, W) float32 RGB, 0..255, sides multiples of 32 from 64 on (what is left is padded, best with the
    mean color). Output: boxes (B, A, 4), x0, y0, x1, y1 in its pixels, and scores (B, A, K) in 0..1. To be kept are
    scores above 0.05, class by class those that non-maximum suppression at 0.5 leaves.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, detector: Detector, stats: ImageStats) -> None:
        super().__init__()
        self.detector = deepcopy(detector).eval()
        with torch.no_grad():
            _fix_words(self.detector)
        self.register_buffer("mean", torch.tensor(stats.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(stats.std).view(1, 3, 1, 1) * 255)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        head = self.detector.head
        assert isinstance(head, RetinaHead) and isinstance(head.anchor_generator, Anchors)
        pyramid = self.detector.run((image - self.mean) / self.std).pyramid
        boxes, scores = [], []
        for number, one in enumerate(
            pyramid
        ):  # by itself: that sums of sizes are equal takes minutes to prove
            outputs = head.outputs([one])
            anchors = head.anchor_generator.at(number, one)  # (A, 4)
            boxes.append(self._boxes(anchors, outputs["bbox_regression"]))
            scores.append(outputs["cls_logits"].sigmoid())
        found = torch.cat(boxes, dim=1)
        x, y = found[..., 0::2].clamp(0, image.shape[3]), found[..., 1::2].clamp(0, image.shape[2])
        return torch.stack([x, y], dim=3).flatten(2), torch.cat(scores, dim=1)

    def _boxes(self, anchors: Tensor, deltas: Tensor) -> Tensor:
        """Anchors (A, 4), moved by deltas (B, A, 4)."""
        sides = anchors[:, 2:] - anchors[:, :2]  # (A, 2)
        centers = anchors[:, :2] + sides / 2 + deltas[..., :2] * sides  # (B, A, 2)
        least = -LARGEST if self.detector.detector.details.two_sided_deltas else None
        half = sides / 2 * deltas[..., 2:].clamp(least, LARGEST).exp()
        return torch.cat([centers - half, centers + half], dim=2)


def export_detector(detector: TrainedDetector, path: Path, *, kind: ExportFormat = "onnx") -> None:
    """Write a RetinaNet with its classes baked in, see `ExportedRetinaNet`; batch size and sides are free.

    Raises UserError for a Mask R-CNN, if `path` exists, or if ONNX's packages are missing.
    """
    if detector.masks:
        raise UserError(
            f"{detector.name} is a Mask R-CNN, whose regions no fixed graph has; export a retinanet"
        )
    module = ExportedRetinaNet(detector.model, detector.stats).eval()
    write_graph(module, OUTPUTS, detector.classes, path, kind=kind, cell=CELL)


def _fix_words(model: Detector) -> None:
    """The words' embeddings in place of the text encoder, unless it runs on every picture."""
    if model.config.language and model.config.prompting != "pre":
        kept = model.words.embeddings(model.text_encoder, model.contexts)
        model.words = FixedTexts(kept)  # type: ignore[assignment]
        model.text_encoder = nn.Identity()  # type: ignore[assignment]
