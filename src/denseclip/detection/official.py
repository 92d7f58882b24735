"""Detection checkpoints of the official DenseCLIP code, whose heads have mmdetection's names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from denseclip.clip.checkpoint import load_weights, read_checkpoint
from denseclip.clip.clip import Tokenize
from denseclip.clip.convert import from_mmdet
from denseclip.detection.config import DetectorConfig, Kind
from denseclip.detection.model import Detector, build_detector
from denseclip.errors import UserError
from denseclip.models.config import DenseClipConfig
from denseclip.models.encoders import Heads, Shapes, infer_shapes
from denseclip.models.official import OTHER_MODEL, official_config
from denseclip.text.prompts import coco_things

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
