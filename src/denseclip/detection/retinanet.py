"""Anchors, and RetinaNet's head: losses and detections."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from math import ceil

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.ops import box_iou

from denseclip.detection.config import Detections, Instances, Profile
from denseclip.detection.matching import box_coder, matcher
from denseclip.errors import UserError
from denseclip.models.fpn import start_convolution

RATIOS = (0.5, 1.0, 2.0)  # height / width
RETINA_STRIDES = (8, 16, 32, 64, 128)
RPN_STRIDES = (4, 8, 16, 32, 64)
CELL = 32  # pixels; a picture is padded to whole ones


class Anchors(AnchorGenerator):
    """Torchvision's anchors, but a level's stride is given and not guessed from rounded sizes.

    torchvision divides the image's side by the map's: at 800 pixels its strides of P6 and P7 are 61 and 114 in place
    of 64 and 128. rounded: whole sides, as torchvision has them.
    """

    def __init__(self, sizes: Sequence[Sequence[float]], strides: Sequence[int], *, rounded: bool) -> None:
        self.rounded, self.strides = rounded, tuple(strides)
        levels = tuple(tuple(level) for level in sizes)
        super().__init__(levels, (RATIOS,) * len(levels))

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        """(ratios x scales, 4) boxes around the origin."""
        sides = torch.as_tensor(scales, dtype=dtype, device=device)
        tall = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        heights = (tall[:, None] * sides).flatten()
        widths = (sides / tall[:, None]).flatten()
        boxes = torch.stack([-widths, -heights, widths, heights], dim=1) / 2
        return boxes.round() if self.rounded else boxes

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """For each image (A, 4) boxes in pixels, level after level."""
        device = feature_maps[0].device
        self.set_cell_anchors(torch.float32, device)
        grids = [list(one.shape[-2:]) for one in feature_maps]
        steps = [[torch.tensor(s, device=device)] * 2 for s in self.strides[: len(grids)]]
        every = torch.cat(self.grid_anchors(grids, steps))  # (A, 4)
        return [every] * len(image_list.image_sizes)

    def within(self, sizes: Sequence[tuple[int, int]], feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """For each image of a size (rows, columns), padded to whole cells: which of the anchors (A,) are in it."""
        found = []
        for size in sizes:
            height, width = (ceil(side / CELL) * CELL for side in size)
            parts = []
            for stride, each, one in zip(
                self.strides, self.num_anchors_per_location(), feature_maps, strict=False
            ):
                rows, columns = (torch.arange(side, device=one.device) * stride for side in one.shape[-2:])
                inside = (rows < height)[:, None] & (columns < width)
                parts.append(inside.flatten().repeat_interleave(each))
            found.append(torch.cat(parts))
        return found

    def at(self, level: int, feature_map: Tensor) -> Tensor:
        """(A, 4) of one level; in operations that an export with sizes left open can follow."""
        device, stride = feature_map.device, self.strides[level]
        rows, columns = (torch.arange(side, device=device) * stride for side in feature_map.shape[-2:])
        y, x = (axis.flatten() for axis in torch.meshgrid(rows, columns, indexing="ij"))  # (h w)
        centers = torch.stack([x, y, x, y], dim=1)[:, None].float()  # (h w, 1, 4)
        return (centers + self.cell_anchors[level].to(device, torch.float32)).flatten(0, 1)


def retina_anchors(*, rounded: bool) -> Anchors:
    """Nine a cell: three parts of an octave, three ratios; whole sides are truncated first, as in torchvision."""
    octaves = [[4 * stride * 2 ** (i / 3) for i in range(3)] for stride in RETINA_STRIDES]
    sizes = [[int(side) for side in level] for level in octaves] if rounded else octaves
    return Anchors(sizes, RETINA_STRIDES, rounded=rounded)


def rpn_anchors(*, rounded: bool) -> Anchors:
    """Three a cell, of 8 strides."""
    return Anchors([[8 * stride] for stride in RPN_STRIDES], RPN_STRIDES, rounded=rounded)


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
            detections_per_img=profile.detections, proposal_matcher=matcher(0.5, 0.4, 0.0, profile),
        )  # fmt: skip
        self.box_coder = box_coder((1.0, 1.0, 1.0, 1.0), profile)
        self.padding_ignored = profile.padding_ignored
        if not prior:
            reset(head)
            for branch in (head.classification_head, head.regression_head):
                start_of_papers(branch.conv)

    def outputs(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Five maps -> "cls_logits" (B, A, K) and "bbox_regression" (B, A, 4), float32."""
        return {name: value.float() for name, value in self.head(list(features)).items()}

    def losses(
        self, features: Sequence[Tensor], images: ImageList, instances: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """ "classification" and "boxes", to be summed."""
        targets = [one.for_torchvision() for one in instances]
        anchors = self.anchor_generator(images, list(features))
        if self.padding_ignored:
            with_padding(targets, self.anchor_generator, images, features)
        found = self.compute_loss(targets, self.outputs(features), anchors)
        return {"classification": found["classification"], "boxes": found["bbox_regression"]}

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
    ) -> dict[str, Tensor]:
        """As torchvision's, but of anchors that are "within" their image, where targets say so."""
        matched = []
        for own, target in zip(anchors, targets, strict=True):
            found = torch.full((len(own),), self.proposal_matcher.BELOW_LOW_THRESHOLD, device=own.device)
            within = target.get("within", torch.ones_like(found, dtype=torch.bool))
            if len(target["boxes"]):
                found[within] = self.proposal_matcher(box_iou(target["boxes"], own[within]))
            matched.append(found.masked_fill(~within, self.proposal_matcher.BETWEEN_THRESHOLDS))
        return self.head.compute_loss(targets, head_outputs, anchors, matched)

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


def with_padding(
    targets: Sequence[dict[str, Tensor]], anchors: Anchors, images: ImageList, features: Sequence[Tensor]
) -> None:
    """Say to each target which anchors are "within" its image, and no padding."""
    for target, within in zip(targets, anchors.within(images.image_sizes, features), strict=True):
        target["within"] = within


def reset(module: nn.Module) -> None:
    """PyTorch's own start for convolutions and matrices, which is what the official code trains from."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            part.reset_parameters()


def start_of_papers(module: nn.Module) -> None:
    """He's start for the stacked convolutions of a head, which the official code's kind of layer brings along."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            start_convolution(part)


def named(features: Sequence[Tensor]) -> "OrderedDict[str, Tensor]":
    """As torchvision's region heads take them."""
    return OrderedDict((str(i), one) for i, one in enumerate(features))


def image_list(images: Tensor, sizes: Tensor | None) -> ImageList:
    """Padded images (B, 3, H, W) with the sizes (B, 2), rows and columns, of what is not padding."""
    whole = torch.tensor([images.shape[2:]] * len(images)) if sizes is None else sizes
    return ImageList(images, [(int(h), int(w)) for h, w in whole.tolist()])
