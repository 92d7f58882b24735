"""RetinaNet as a file that runs without this library."""

from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from denseclip.clip import ImageStats
from denseclip.errors import UserError
from denseclip.nets.denseclip.baked import FixedWords
from denseclip.nets.detection.anchors import Anchors
from denseclip.nets.detection.detector import Detector
from denseclip.nets.detection.retina import RetinaHead
from denseclip.nets.detection.trained import TrainedDetector
from denseclip.nets.export import ExportFormat, write_graph

OUTPUTS = ("boxes", "scores")


class ExportedRetinaNet(nn.Module):
    """Pixels to boxes: normalisation, network and decoding in one graph, without the choice among them.

    Input (B, 3, H, W) float32 RGB, 0..255, sides multiples of 32 (what is left is padded, best with the mean colour).
    Output: boxes (B, A, 4), x0, y0, x1, y1 in its pixels, and scores (B, A, K) in 0..1. To be kept are scores above
    0.05, class by class those that non-maximum suppression at 0.5 leaves.
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
        outputs = head.outputs(pyramid)
        anchors = head.anchor_generator.at(pyramid)  # (A, 4)
        deltas = outputs["bbox_regression"]  # (B, A, 4)
        sides = anchors[:, 2:] - anchors[:, :2]  # (A, 2)
        centres = anchors[:, :2] + sides / 2 + deltas[..., :2] * sides  # (B, A, 2)
        half = sides / 2 * deltas[..., 2:].clamp(max=head.box_coder.bbox_xform_clip).exp()
        boxes = torch.cat([centres - half, centres + half], dim=2).clamp(min=0)
        x, y = boxes[..., 0::2].clamp(max=image.shape[3]), boxes[..., 1::2].clamp(max=image.shape[2])
        boxes = torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=2)
        return boxes, outputs["cls_logits"].sigmoid()


def export_detector(detector: TrainedDetector, path: Path, *, kind: ExportFormat = "onnx") -> None:
    """Write a RetinaNet with its classes baked in, see `ExportedRetinaNet`; batch size and sides are free.

    Raises UserError for a Mask R-CNN, if `path` exists, or if ONNX's packages are missing.
    """
    if detector.masks:
        raise UserError(
            f"{detector.name} is a Mask R-CNN, whose regions no fixed graph has; export a retinanet"
        )
    module = ExportedRetinaNet(detector.model, detector.stats).eval()
    write_graph(module, OUTPUTS, detector.classes, path, kind=kind)


def _fix_words(model: Detector) -> None:
    """The words' embeddings in place of the text encoder, unless it runs on every picture."""
    if model.config.language and model.config.prompting != "pre":
        kept = model.words.embeddings(model.text_encoder, model.contexts)
        model.words = FixedWords(kept)  # type: ignore[assignment]
        model.text_encoder = nn.Identity()  # type: ignore[assignment]
