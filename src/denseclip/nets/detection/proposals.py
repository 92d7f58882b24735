"""Mask R-CNN's first stage on torchvision's: regions that may hold something."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from denseclip.nets.detection.anchors import RATIOS, rpn_anchors
from denseclip.nets.detection.config import DetectorConfig


class _FloatHead(RPNHead):
    """Boxes are too fine for bf16."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps -> objectness and deltas of each."""
        objectness, deltas = super().forward(x)
        return [one.float() for one in objectness], [one.float() for one in deltas]


class Rpn(RegionProposalNetwork):
    """Proposals; the loss of boxes is smooth L1 with a `beta` of one's own."""

    def __init__(self, channels: int, config: DetectorConfig) -> None:
        details = config.details
        super().__init__(
            rpn_anchors(rounded=details.rounded_anchors),
            _FloatHead(channels, len(RATIOS)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n=dict(zip(("training", "testing"), config.candidates, strict=True)),
            post_nms_top_n={"training": details.train_proposals, "testing": 1000},
            nms_thresh=0.7,
        )
        self.beta = details.smooth_beta

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """As torchvision's, apart from beta."""
        positive, negative = (torch.where(torch.cat(s))[0] for s in self.fg_bg_sampler(labels))
        sampled = torch.cat([positive, negative])
        wanted, targets = torch.cat(labels), torch.cat(regression_targets)
        boxes = F.smooth_l1_loss(
            pred_bbox_deltas[positive], targets[positive], beta=self.beta, reduction="sum"
        )
        found = F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], wanted[sampled])
        return found, boxes / max(1, len(sampled))
