"""Detection checkpoints of the official DenseCLIP code, whose heads have mmdetection's names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from denseclip.clip.checkpoint import read_checkpoint
from denseclip.clip.tokenizer import Tokenize
from denseclip.detection.config import DetectorConfig, Kind
from denseclip.detection.model import Detector, build_detector
from denseclip.errors import UserError
from denseclip.models.config import DenseClipConfig
from denseclip.models.encoders import Heads, Shapes, infer_shapes
from denseclip.models.official import load_exactly, official_config
from denseclip.text.prompts import coco_things

State = dict[str, Tensor]
MARKS: dict[str, Kind] = {"bbox_head.retina_cls.weight": "retinanet", "rpn_head.rpn_cls.weight": "maskrcnn"}
ROI = "head.roi_heads."
RENAMES: tuple[tuple[str, str], ...] = (  # theirs, ours
    (r"bbox_head\.cls_convs\.(\d+)\.conv\.", r"head.head.classification_head.conv.\1.0."),
    (r"bbox_head\.reg_convs\.(\d+)\.conv\.", r"head.head.regression_head.conv.\1.0."),
    (r"bbox_head\.retina_cls\.", "head.head.classification_head.cls_logits."),
    (r"bbox_head\.retina_reg\.", "head.head.regression_head.bbox_reg."),
    (r"rpn_head\.rpn_conv\.", "head.rpn.head.conv.0.0."),
    (r"rpn_head\.rpn_cls\.", "head.rpn.head.cls_logits."),
    (r"rpn_head\.rpn_reg\.", "head.rpn.head.bbox_pred."),
    (r"roi_head\.bbox_head\.shared_fcs\.0\.", f"{ROI}box_head.fc6."),
    (r"roi_head\.bbox_head\.shared_fcs\.1\.", f"{ROI}box_head.fc7."),
    (r"roi_head\.bbox_head\.fc_cls\.", f"{ROI}box_predictor.cls_score."),
    (r"roi_head\.bbox_head\.fc_reg\.", f"{ROI}box_predictor.bbox_pred."),
    (r"roi_head\.mask_head\.convs\.(\d+)\.conv\.", rf"{ROI}mask_head.\1.0."),
    (r"roi_head\.mask_head\.upsample\.", f"{ROI}mask_predictor.conv5_mask."),
    (r"roi_head\.mask_head\.conv_logits\.", f"{ROI}mask_predictor.mask_fcn_logits."),
)


def is_official_detector(names: Mapping[str, object]) -> bool:
    """Whether tensors of these names are a detector of the official code."""
    return any(mark in names for mark in MARKS) and "neck.fpn_convs.0.conv.bias" in names


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
        known, state = _classes(state, kind), renamed(state)
    except KeyError as error:
        raise UserError(f"{name}: lacks {error.args[0]}; pass an unchanged checkpoint") from error
    if known != len(names):
        raise UserError(f"{name}: has {known} classes, {len(names)} names are given; give all, in order")
    model = build_detector(config, detector, shapes, names, tokenize=tokenize)
    load_exactly(model, state, name)
    return model.eval()


def renamed(state: Mapping[str, Tensor]) -> State:
    """The tensors under our names, the background first, which mmdetection has last and without box and mask.

    KeyError for a missing tensor.
    """
    found = {_ours(name): tensor for name, tensor in state.items()}
    if f"{ROI}box_predictor.cls_score.bias" not in found:
        return found
    for part in ("weight", "bias"):
        key = f"{ROI}box_predictor.cls_score.{part}"
        found[key] = found[key].roll(1, dims=0)
        for name, rows in (("box_predictor.bbox_pred", 4), ("mask_predictor.mask_fcn_logits", 1)):
            tensor = found[f"{ROI}{name}.{part}"]
            found[f"{ROI}{name}.{part}"] = torch.cat([tensor.new_zeros(rows, *tensor.shape[1:]), tensor])
    return found


def _ours(name: str) -> str:
    for theirs, ours in RENAMES:
        new, count = re.subn(f"^{theirs}", ours, name)
        if count:
            return new
    return name


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
