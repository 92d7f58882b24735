"""RetinaNet's head on torchvision's, for features that come from elsewhere."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead

from denseclip.errors import UserError
from denseclip.nets.detection.anchors import RATIOS, retina_anchors
from denseclip.nets.detection.config import Profile
from denseclip.nets.detection.instances import Detections, Instances

ANCHORS = 3 * len(RATIOS)


class _Nothing(nn.Identity):
    """In the place of the backbone, which is not in here."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels


class _OverBatch(RetinaNetHead):
    """Sums over all images are divided by all their positives, at least one an image."""

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Torchvision's loss of each image, weighted by what it was divided by."""
        counts = [max(1, int((found >= 0).sum())) for found in matched_idxs]
        total: dict[str, Tensor] = {}
        for i, count in enumerate(counts):
            one = slice(i, i + 1)
            outputs = {name: value[one] for name, value in head_outputs.items()}
            losses = super().compute_loss(targets[one], outputs, anchors[one], matched_idxs[one])
            for name, value in losses.items():
                total[name] = total.get(name, 0) + value * count / sum(counts)
        return total


class RetinaHead(RetinaNet):
    """Classes and boxes from P3 to P7; `head.` has torchvision's parameters."""

    mask = False

    def __init__(self, channels: int, classes: int, profile: Profile, *, prior: bool) -> None:
        anchors = retina_anchors(rounded=profile.rounded_anchors)
        kind = RetinaNetHead if profile.per_image_loss else _OverBatch
        head = kind(channels, ANCHORS, classes, norm_layer=_norm(channels, profile.norm_groups))
        super().__init__(
            _Nothing(channels), anchor_generator=anchors, num_classes=classes, head=head,
            detections_per_img=profile.detections,
        )  # fmt: skip
        if not prior:
            reset(head)

    def outputs(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Five maps -> "cls_logits" (B, A, K) and "bbox_regression" (B, A, 4), float32."""
        return {name: value.float() for name, value in self.head(list(features)).items()}

    def losses(
        self, features: Sequence[Tensor], images: ImageList, instances: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """ "classification" and "boxes", to be summed."""
        targets = [one.for_torchvision() for one in instances]
        anchors = self.anchor_generator(images, list(features))
        found = self.compute_loss(targets, self.outputs(features), anchors)
        return {"classification": found["classification"], "boxes": found["bbox_regression"]}

    def detect(self, features: Sequence[Tensor], images: ImageList) -> list[Detections]:
        """What is in each image, in its pixels."""
        lengths = [ANCHORS * one.shape[2] * one.shape[3] for one in features]
        anchors = [list(one.split(lengths)) for one in self.anchor_generator(images, list(features))]
        outputs = {name: list(v.split(lengths, dim=1)) for name, v in self.outputs(features).items()}
        found = self.postprocess_detections(outputs, anchors, images.image_sizes)
        return [Detections(one["boxes"], one["scores"], one["labels"]) for one in found]


def _norm(channels: int, groups: int) -> Callable[..., nn.Module] | None:
    """Group norm as a layer to build; UserError if the channels do not divide."""
    if groups and channels % groups:
        raise UserError(f"norm_groups = {groups} does not divide fpn_channels = {channels}; take a divisor")
    return partial(nn.GroupNorm, groups) if groups else None


def reset(module: nn.Module) -> None:
    """PyTorch's own start for convolutions and matrices, which is what the official code trains from."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            part.reset_parameters()


def named(features: Sequence[Tensor]) -> "OrderedDict[str, Tensor]":
    """As torchvision's region heads take them."""
    return OrderedDict((str(i), one) for i, one in enumerate(features))


def image_list(images: Tensor, sizes: Tensor | None) -> ImageList:
    """Padded images (B, 3, H, W) with the sizes (B, 2), rows and columns, of what is not padding."""
    whole = torch.tensor([images.shape[2:]] * len(images)) if sizes is None else sizes
    return ImageList(images, [(int(h), int(w)) for h, w in whole.tolist()])
