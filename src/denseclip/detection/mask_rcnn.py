"""Mask R-CNN: region proposals, boxes and masks of regions."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from denseclip.detection.config import Detections, DetectorConfig, Instances
from denseclip.detection.matching import box_coder, matcher
from denseclip.detection.retinanet import (
    RATIOS,
    RPN_STRIDES,
    named,
    reset,
    rpn_anchors,
    start_of_papers,
    with_padding,
)


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
        self.proposal_matcher = matcher(0.7, 0.3, 0.3, details)
        self.box_coder = box_coder((1.0, 1.0, 1.0, 1.0), details)

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's, but of anchors that are "within" their image, where targets say so."""
        if "within" not in targets[0]:
            return super().assign_targets_to_anchors(anchors, targets)
        kept = [own[target["within"]] for own, target in zip(anchors, targets, strict=True)]
        labels, boxes = super().assign_targets_to_anchors(kept, targets)
        for i, (own, target) in enumerate(zip(anchors, targets, strict=True)):
            every, wanted = own.new_full((len(own),), -1.0), torch.zeros_like(own)  # -1: no example
            every[target["within"]], wanted[target["within"]] = labels[i], boxes[i]
            labels[i], boxes[i] = every, wanted
        return labels, boxes

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


BOX_SIDE, MASK_SIDE = 7, 14
Losses = dict[str, Tensor]


class RoiPool(nn.Module):
    """RoIAlign on P2 to P5, each region on the level of its size."""

    def __init__(self, side: int, *, aligned: bool) -> None:
        super().__init__()
        self.side, self.aligned, self.sampling = side, aligned, 0 if aligned else 2
        self.level_of = LevelMapper(2, 5)

    def forward(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: object = None
    ) -> Tensor:
        """Regions (N, 4) of every image -> (sum of N, C, side, side)."""
        del image_shapes
        levels = self.level_of(boxes)
        image = torch.cat([torch.full_like(one[:, :1], i) for i, one in enumerate(boxes)])
        rois = torch.cat([image, torch.cat(boxes)], dim=1)  # (N, 5)
        first = features["0"]
        pooled = first.new_zeros(len(rois), first.shape[1], self.side, self.side)
        for level in range(4):
            here = torch.where(levels == level)[0]
            pooled[here] = roi_align(
                features[str(level)], rois[here], self.side, 1 / RPN_STRIDES[level], self.sampling, self.aligned
            ).to(pooled.dtype)  # fmt: skip
        return pooled


class RoiHeads(RoIHeads):
    """Classes, boxes and masks of regions; class 0 is the background here."""

    def __init__(self, channels: int, classes: int, config: DetectorConfig) -> None:
        profile, fc_width = config.details, config.fc_width
        pool, mask_pool = (RoiPool(side, aligned=profile.aligned_rois) for side in (BOX_SIDE, MASK_SIDE))
        super().__init__(
            pool,
            TwoMLPHead(channels * BOX_SIDE**2, fc_width),
            FastRCNNPredictor(fc_width, classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=config.regions,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=profile.detections,
            mask_roi_pool=mask_pool,
            mask_head=MaskRCNNHeads(channels, [channels] * 4, 1),
            mask_predictor=MaskRCNNPredictor(channels, channels, classes + 1),
        )
        self.beta, self.aligned, self.max_iou = profile.smooth_beta, profile.aligned_rois, profile.max_iou
        self.proposal_matcher = matcher(0.5, 0.5, 0.5, profile, usual=False)
        self.box_coder = box_coder((10.0, 10.0, 5.0, 5.0), profile)

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's; by `max_iou` the things, last among the regions, take no other region's place."""
        if not self.max_iou:
            return super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        others = [each[: len(each) - len(things)] for each, things in zip(proposals, gt_boxes, strict=True)]
        matched, labels = super().assign_targets_to_proposals(others, gt_boxes, gt_labels)
        themselves = [torch.arange(len(things), device=things.device) for things in gt_boxes]
        both = zip(matched, themselves, strict=True), zip(labels, gt_labels, strict=True)
        return [torch.cat(pair) for pair in both[0]], [torch.cat(pair) for pair in both[1]]

    def losses(
        self, features: dict[str, Tensor], proposals: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> Losses:
        """ "classification", "boxes" and "masks" of sampled regions."""
        regions, matched, labels, deltas = self.select_training_samples(proposals, targets)
        logits, boxes = self.box_predictor(self.box_head(self.box_roi_pool(features, regions)))
        losses = box_losses(logits.float(), boxes.float(), torch.cat(labels), torch.cat(deltas), self.beta)
        there = [torch.where(one > 0)[0] for one in labels]
        regions = [one[i] for one, i in zip(regions, there, strict=True)]
        matched = [one[i] for one, i in zip(matched, there, strict=True)]
        masks = [
            mask_target(t["masks"], r, m, 2 * MASK_SIDE, aligned=self.aligned)
            for t, r, m in zip(targets, regions, matched, strict=True)
        ]
        positive = torch.cat([one[i] for one, i in zip(labels, there, strict=True)])
        return losses | {"masks": mask_loss(self.mask_logits(features, regions), torch.cat(masks), positive)}

    def mask_logits(self, features: dict[str, Tensor], regions: list[Tensor]) -> Tensor:
        """(N, K + 1, 28, 28)."""
        return self.mask_predictor(self.mask_head(self.mask_roi_pool(features, regions))).float()

    def detect(
        self, features: dict[str, Tensor], proposals: list[Tensor], images: ImageList
    ) -> list[Detections]:
        """The best of each image with their masks."""
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals)))
        found = self.postprocess_detections(logits.float(), deltas.float(), proposals, images.image_sizes)
        boxes, scores, labels = found
        masks = maskrcnn_inference(self.mask_logits(features, boxes), labels)
        return [Detections(b, s, k - 1, m) for b, s, k, m in zip(boxes, scores, labels, masks, strict=True)]


class RegionHead(nn.Module):
    """Proposals from P2 to P6, then boxes and masks from P2 to P5; parameters as in torchvision's Mask R-CNN."""

    mask = True

    def __init__(self, channels: int, classes: int, config: DetectorConfig, *, official: bool) -> None:
        super().__init__()
        self.rpn = Rpn(channels, config)
        self.roi_heads = RoiHeads(channels, classes, config)
        self.padding_ignored = config.details.padding_ignored
        if official:
            reset(self)
            start_of_papers(self.roi_heads.mask_head)

    def losses(self, features: Sequence[Tensor], images: ImageList, instances: Sequence[Instances]) -> Losses:
        """Two of the proposals ("rpn_...") and three of the regions, to be summed."""
        targets, maps = [one.for_torchvision(first=1) for one in instances], named(_float(features))
        if self.padding_ignored:
            with_padding(targets, self.rpn.anchor_generator, images, features)
        proposals, found = self.rpn(images, maps, targets)
        losses = self.roi_heads.losses(maps, proposals, targets)
        return losses | {
            "rpn_objectness": found["loss_objectness"],
            "rpn_boxes": found["loss_rpn_box_reg"],
        }

    def detect(self, features: Sequence[Tensor], images: ImageList) -> list[Detections]:
        """What is in each image, in its pixels."""
        maps = named(_float(features))
        proposals, _ = self.rpn(images, maps)
        return self.roi_heads.detect(maps, proposals, images)


def box_losses(logits: Tensor, boxes: Tensor, labels: Tensor, deltas: Tensor, beta: float) -> Losses:
    """Cross-entropy of (N, K + 1) and smooth L1 of the boxes (N, 4 (K + 1)) of each true class, both over N."""
    positive = torch.where(labels > 0)[0]
    own = boxes.unflatten(1, (-1, 4))[positive, labels[positive]]  # (P, 4)
    off = F.smooth_l1_loss(own, deltas[positive], beta=beta, reduction="sum")
    return {"classification": F.cross_entropy(logits, labels), "boxes": off / max(1, len(labels))}


def mask_target(masks: Tensor, regions: Tensor, matched: Tensor, side: int, *, aligned: bool) -> Tensor:
    """Masks (N, H, W) seen through regions (R, 4) -> (R, side, side); `aligned`: half a pixel on, and 0 or 1."""
    rois = torch.cat([matched.to(regions)[:, None], regions], dim=1)
    seen = roi_align(masks[:, None].to(regions), rois, side, 1.0, -1, aligned)[:, 0]
    return (seen >= 0.5).to(seen) if aligned else seen


def mask_loss(logits: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of the true class's mask; 0 without regions."""
    if not len(labels):
        return logits.sum() * 0
    return F.binary_cross_entropy_with_logits(logits[torch.arange(len(labels)), labels], targets)


def _float(features: Sequence[Tensor]) -> list[Tensor]:
    return [one.float() for one in features]  # boxes are too fine for bf16
