"""RetinaNet and Mask R-CNN guided by words (section 5)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from denseclip.clip.tokenizer import Tokenize
from denseclip.nets.denseclip.config import DenseClipConfig
from denseclip.nets.denseclip.encoders import VitEncoder
from denseclip.nets.denseclip.fpn import Fpn
from denseclip.nets.denseclip.guidance import Guidance, LanguageGuided
from denseclip.nets.denseclip.shapes import Shapes
from denseclip.nets.detection.config import DetectorConfig
from denseclip.nets.detection.instances import Detections, Instances
from denseclip.nets.detection.regions import RegionHead
from denseclip.nets.detection.retina import RetinaHead, image_list
from denseclip.nets.detection.score_loss import STRIDE, box_target, score_map_loss

LEVELS = 5


@dataclass(frozen=True)
class DetectorOutput:
    """guidance: what the neck got. pyramid: its five maps, P3 to P7 for RetinaNet, P2 to P6 for Mask R-CNN."""

    guidance: Guidance
    pyramid: tuple[Tensor, ...]


class Detector(LanguageGuided):
    """Backbone and words, FPN, and torchvision's heads; with `language=False` the fine-tuned CLIP baseline."""

    def __init__(
        self,
        config: DenseClipConfig,
        detector: DetectorConfig,
        shapes: Shapes,
        classes: Sequence[str],
        tokenize: Tokenize | None = None,
    ) -> None:
        super().__init__(config, shapes, classes, tokenize)
        self.detector, details, channels = detector, detector.details, config.fpn_channels
        retina = detector.kind == "retinanet"
        if retina and isinstance(self.backbone, VitEncoder):
            self.backbone.fpn1 = nn.Identity()  # nobody looks at its finest map
        self.neck = Fpn(
            self.map_channels,
            channels,
            start=1 if retina else 0,
            outputs=LEVELS,
            extra="convolutions" if retina else "subsample",
            activation=retina and details.relu_before_p7,
        )
        self.head: RetinaHead | RegionHead = (
            RetinaHead(channels, len(classes), details, prior=not config.official)
            if retina
            else RegionHead(channels, len(classes), detector, official=config.official)
        )
        for norm in self._frozen_norms():
            norm.requires_grad_(False)

    def run(self, images: Tensor) -> DetectorOutput:
        """Images (B, 3, H, W), normalised -> the pyramid and all that it comes from."""
        guidance = self.guide(images)
        return DetectorOutput(guidance, self.neck(guidance.maps))

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> list[Detections]:
        """Images (B, 3, H, W), normalised and padded -> what is in each, best first.

        sizes: (B, 2) rows and columns that are not padding; None: all are.
        """
        return self.head.detect(self.run(images).pyramid, image_list(images, sizes))

    def loss(self, images: Tensor, sizes: Tensor, instances: Sequence[Instances]) -> dict[str, Tensor]:
        """Losses of the head, and "scores", that of the score map, weighted; all to be summed."""
        output = self.run(images)
        losses = self.head.losses(output.pyramid, image_list(images, sizes), instances)
        if output.guidance.scores is not None and self.config.aux_weight:
            grid = (images.shape[2] // STRIDE, images.shape[3] // STRIDE)
            target, counts = box_target(instances, len(self.classes), grid)
            loss = score_map_loss(output.guidance.scores / self.config.tau, target, counts)
            losses["scores"] = self.config.aux_weight * loss
        return losses

    def train(self, mode: bool = True) -> "Detector":
        """Frozen norms stay in eval mode."""
        super().train(mode)
        for norm in self._frozen_norms():
            norm.eval()
        return self

    def _frozen_norms(self) -> list[nn.Module]:
        """Batch norms of the backbone that come with CLIP's weights; looked up anew, as training replaces modules."""
        if self.config.backbone != "clip" or not self.detector.details.frozen_norms:
            return []
        fresh = self.backbone.new_parameters
        return [
            module
            for name, module in self.backbone.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not name.startswith(fresh)
        ]
