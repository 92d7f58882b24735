"""What can be varied of a detector, and the things in a batch of pictures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from denseclip.errors import UserError
from denseclip.models.config import DenseClipConfig

Kind = Literal["retinanet", "maskrcnn"]


@dataclass(frozen=True)
class Profile:
    """Details that change numbers (section 5.1); the defaults are torchvision's.

    relu_before_p7: between RetinaNet's two extra levels. rounded_anchors: anchor sides are whole pixels.
    per_image_loss: RetinaNet's sums are divided by the positives of each image, then averaged; else by the batch's.
    detections: the most of them in an image. aligned_rois: RoIAlign shifted by half a pixel with as many samples as a
    bin has pixels, also for the masks to be learned; else unshifted with 2 x 2. smooth_beta: where the L1 of boxes in
    Mask R-CNN becomes quadratic; 0 for never. train_proposals: kept after NMS in training. frozen_norms: the batch
    norms of the backbone keep CLIP's statistics and weights; else they are trained. norm_groups: of group norms
    behind the convolutions of RetinaNet's head, 32 in torchvision's second version; 0 for none. max_iou: things get
    their best anchors and regions as in `MaxIou`, region proposals from an overlap of 0.3 on, and regions before the
    things themselves are added to them. padding_ignored: anchors beyond a picture's own whole cells, where others of
    its batch are larger, are no examples. two_sided_deltas: boxes are kept from becoming too small, too.
    """

    relu_before_p7: bool = True
    rounded_anchors: bool = True
    per_image_loss: bool = True
    detections: int = 300
    aligned_rois: bool = False
    smooth_beta: float = 1 / 9
    train_proposals: int = 2000
    frozen_norms: bool = True
    norm_groups: int = 0
    max_iou: bool = False
    padding_ignored: bool = False
    two_sided_deltas: bool = False


MMDET = Profile(
    relu_before_p7=False,
    rounded_anchors=False,
    per_image_loss=False,
    detections=100,
    aligned_rois=True,
    smooth_beta=0.0,
    train_proposals=1000,
    frozen_norms=False,
    max_iou=True,
    padding_ignored=True,
    two_sided_deltas=True,
)
PROFILES: dict[tuple[str, Kind], Profile] = {
    ("torchvision", "retinanet"): Profile(),
    ("torchvision", "maskrcnn"): Profile(detections=100),
    ("mmdet", "retinanet"): MMDET,
    ("mmdet", "maskrcnn"): MMDET,
}


@dataclass(frozen=True)
class DetectorConfig:
    """The detector around the guided features.

    profile: "torchvision", or "mmdet" for the papers' details; changes: single fields of it with other values.
    Of Mask R-CNN: fc_width: of its two fully connected layers; candidates: anchors of each level that are looked at,
    in training and after it; regions: proposals of an image that are learned from.
    """

    kind: Kind = "retinanet"
    profile: str = "torchvision"
    changes: Mapping[str, Any] = field(default_factory=dict)
    fc_width: int = 1024
    candidates: tuple[int, int] = (2000, 1000)
    regions: int = 512

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(f"detector {self.kind!r} is not known; choose retinanet or maskrcnn")
        if (self.profile, self.kind) not in PROFILES:
            raise UserError(f"profile {self.profile!r} is not known; choose torchvision or mmdet")
        known = [each.name for each in fields(Profile)]
        unknown = sorted(set(self.changes) - set(known))
        if unknown:
            raise UserError(f"a profile has no {unknown[0]!r}; its fields are {', '.join(known)}")

        if self.kind != "retinanet" and self.changes.get("norm_groups"):
            raise UserError("norm_groups is for RetinaNet's head; leave it out, or take kind = retinanet")

    @property
    def details(self) -> Profile:
        """The profile with its changes."""
        return replace(PROFILES[self.profile, self.kind], **self.changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DetectorConfig":
        """The inverse of `to_dict`; UserError for an unknown key."""
        unknown = sorted(set(values) - {each.name for each in fields(cls)})
        if unknown:
            raise UserError(f"a detector has no setting {unknown[0]!r}; remove it or mend its spelling")
        both = {"candidates": tuple(values["candidates"])} if "candidates" in values else {}
        return cls(**{**values, **both})


def guidance_config(values: Mapping[str, Any]) -> DenseClipConfig:
    """The words' side of a detector: s / tau joins the features and the auxiliary loss weighs 1 (section 5).

    values: other fields of `DenseClipConfig`. With `official`, positions are cropped, not interpolated.
    """
    usual = {"score_logits": True, "aux_weight": 1.0}
    if values.get("official"):
        usual["positions"] = "crop"  # type: ignore[assignment]
    return DenseClipConfig.from_dict({**usual, **values})


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
