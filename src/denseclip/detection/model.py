"""A detector guided by words (DenseCLIP, section 5), how one is made, and published weights of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseclip.clip import Clip
from denseclip.clip.clip import Tokenize, tokenizer_for
from denseclip.clip.convert import from_mmdet
from denseclip.clip.weights import load_weights, read_checkpoint
from denseclip.detection.config import Detections, DetectorConfig, Instances, Kind
from denseclip.detection.mask_rcnn import RegionHead
from denseclip.detection.retinanet import RetinaHead, image_list
from denseclip.errors import UserError
from denseclip.models.config import DenseClipConfig
from denseclip.models.denseclip import DenseCLIPBase, TextGuidedFeatures, shapes_for, start_from
from denseclip.models.encoders import Heads, Shapes, VitEncoder, infer_shapes
from denseclip.models.fpn import Fpn, resize
from denseclip.models.official import OTHER_MODEL, official_config
from denseclip.text.prompts import coco_things

STRIDE = 4


def box_target(instances: Sequence[Instances], classes: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Targets (B, K, h, w) and where they count (B, 1, h, w), both float 0 or 1, on the grid of stride 4.

    size: (h, w) of that grid. A box marks the cells from its truncated start to its truncated end, exclusive, clamped
    to the last row and column, which so are never marked; boxes below 4 pixels may mark nothing.
    """
    device = instances[0].boxes.device
    target = torch.zeros(len(instances), classes, *size, device=device)
    counts = torch.zeros(len(instances), 1, *size, device=device)
    limit = torch.tensor([size[1], size[0]] * 2, device=device) - 1
    for i, one in enumerate(instances):
        cells = (one.boxes / STRIDE).long().clamp_min(0).minimum(limit)
        for (x0, y0, x1, y1), label in zip(cells.tolist(), one.labels.tolist(), strict=True):
            target[i, label, y0:y1, x0:x1] = 1
            counts[i, :, y0:y1, x0:x1] = 1
    return target, counts


def score_map_loss(scores: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Binary cross-entropy of s / tau (B, K, h, w), enlarged bilinearly, over all classes inside the boxes.

    The mean over those cells and classes; 0 (with gradient 0) where no box marks any, which officially is not a
    number. In the logits' form, equal to that of the probabilities and safe in half precision.
    """
    full = resize(scores.float(), (target.shape[2], target.shape[3]))  # (B, K, h, w)
    total = F.binary_cross_entropy_with_logits(full, target, weight=counts, reduction="sum")
    return total / (counts.sum() * target.shape[1]).clamp_min(1)


LEVELS = 5


@dataclass(frozen=True)
class DetectorOutput:
    """features: what the neck got. pyramid: its five maps, P3 to P7 for RetinaNet, P2 to P6 for Mask R-CNN."""

    features: TextGuidedFeatures
    pyramid: tuple[Tensor, ...]


class Detector(DenseCLIPBase):
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
        """Images (B, 3, H, W), normalized -> the pyramid and all that it comes from."""
        features = self.forward_features(images)
        return DetectorOutput(features, self.neck(features.maps))

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> list[Detections]:
        """Images (B, 3, H, W), normalized and padded -> what is in each, best first.

        sizes: (B, 2) rows and columns that are not padding; None: all are.
        """
        return self.head.detect(self.run(images).pyramid, image_list(images, sizes))

    def loss(self, images: Tensor, sizes: Tensor, instances: Sequence[Instances]) -> dict[str, Tensor]:
        """Losses of the head, and "scores", that of the score map, weighted; all to be summed."""
        output = self.run(images)
        losses = self.head.losses(output.pyramid, image_list(images, sizes), instances)
        if output.features.scores is not None and self.config.aux_weight:
            grid = (images.shape[2] // STRIDE, images.shape[3] // STRIDE)
            target, counts = box_target(instances, len(self.classes), grid)
            loss = score_map_loss(output.features.scores / self.config.tau, target, counts)
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


def build_detector(
    config: DenseClipConfig,
    detector: DetectorConfig,
    source: Clip | Shapes,
    classes: Sequence[str],
    *,
    tokenize: Tokenize | None = None,
) -> Detector:
    """A detector for these classes.

    config: of the words' side, see `guidance_config`. source: the CLIP whose weights it starts from (batch norms not
    folded), or the sizes of a model whose weights are loaded afterwards. A CLIP ViT gets the simple feature pyramid
    (Li et al., 2022): all four maps from its last block. tokenize: names -> tokens (K, L); default: the CLIP's.

    Raises UserError for what does not fit together.
    """
    shapes = shapes_for(config, source) if isinstance(source, Clip) else source
    if isinstance(source, Clip) and shapes.is_vit and config.out_indices is None:
        config = replace(config, out_indices=(shapes.vision.get("layers", 12) - 1,) * 4)
    if tokenize is None and shapes.text is not None:
        tokenize = source.tokenizer if isinstance(source, Clip) else tokenizer_for(shapes.text, "this model")
    model = Detector(config, detector, shapes, classes, tokenize)
    if isinstance(source, Clip):
        start_from(model, source)
    return model


State = dict[str, Tensor]
MARKS: dict[str, Kind] = {"bbox_head.retina_cls.weight": "retinanet", "rpn_head.rpn_cls.weight": "maskrcnn"}


def load_official_detector(
    source: Path | Mapping[str, Tensor],
    classes: Sequence[str] | None = None,
    *,
    tokenize: Tokenize | None = None,
    heads: Heads | None = None,
) -> Detector:
    """A detector of the official code, DenseCLIP or CLIP baseline, with the papers' details, in eval mode.

    source: a file, or its tensors under the official names. classes: the names it was trained with, in order;
    default COCO's 80. tokenize: names -> tokens; default CLIP's. heads: where they are not those of released models.

    Raises UserError for a tensor that is missing, unknown or of another size, and for a wrong number of classes.
    """
    state = dict(source) if isinstance(source, Mapping) else read_checkpoint(source).state
    name = "this checkpoint" if isinstance(source, Mapping) else str(source)
    names = coco_things() if classes is None else tuple(classes)
    kind = next((kind for mark, kind in MARKS.items() if mark in state), None)
    if kind is None:
        raise UserError(f"{name}: is no RetinaNet or Mask R-CNN; pass a detection checkpoint of DenseCLIP")
    try:
        config, detector, shapes = _described(state, kind, heads or Heads())
        known, state = _classes(state, kind), from_mmdet(state)
    except KeyError as error:
        raise UserError(f"{name}: lacks {error.args[0]}; pass an unchanged checkpoint") from error
    if known != len(names):
        raise UserError(f"{name}: has {known} classes, {len(names)} names are given; give all, in order")
    model = build_detector(config, detector, shapes, names, tokenize=tokenize)
    load_weights(model, state, name, OTHER_MODEL)
    return model.eval()


def _classes(state: Mapping[str, Tensor], kind: Kind) -> int:
    if kind == "maskrcnn":
        return len(state["roi_head.bbox_head.fc_cls.bias"]) - 1
    return len(state["bbox_head.retina_cls.bias"]) // (len(state["bbox_head.retina_reg.bias"]) // 4)


def _described(
    state: Mapping[str, Tensor], kind: Kind, heads: Heads
) -> tuple[DenseClipConfig, DetectorConfig, Shapes]:
    config = replace(official_config(state, heads), positions="crop", score_logits=True, aux_weight=1.0)
    width = len(state["roi_head.bbox_head.shared_fcs.0.bias"]) if kind == "maskrcnn" else 1024
    return config, DetectorConfig(kind, "mmdet", fc_width=width), infer_shapes(state, heads)
