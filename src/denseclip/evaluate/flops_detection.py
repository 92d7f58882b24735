"""Detectors whose cost can be counted."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from denseclip.clip.tokenizer import tokenizer_for
from denseclip.detection.config import DetectorConfig, Kind, guidance_config
from denseclip.detection.mask_rcnn import BOX_SIDE, MASK_SIDE, RegionHead
from denseclip.detection.model import Detector, build_detector
from denseclip.detection.retinanet import RetinaHead
from denseclip.evaluate.flops import Subject
from denseclip.models.encoders import ResNetShape, Shapes, TextShape
from denseclip.text.prompts import coco_things

REGIONS, MASKED = 1000, 100  # regions whose class, and whose mask, is looked for in one picture
GRID = 42  # positions for 1344 pixels


def detector(
    kind: Kind, layers: tuple[int, int, int, int], embed_dim: int, text: TextShape, *, language: bool
) -> Callable[[], Subject]:
    """A detector of the paper for COCO's classes."""

    def build() -> Subject:
        shapes = Shapes(ResNetShape(layers, 64, 32, GRID), text if language else None, embed_dim)
        config, settings = guidance_config({"language": language}), DetectorConfig(kind, "mmdet")
        tokens = _coco_tokens()
        with torch.device("meta"):
            model = build_detector(config, settings, shapes, coco_things(), tokenize=lambda names: tokens)
        return subject_of_detector(model.eval())

    return build


def subject_of_detector(model: Detector) -> Subject:
    """A detector on the meta device as it is counted, see `_Counted`."""
    net = _Counted(model)
    return Subject(net, net, "text_encoder" if model.config.language else "")


class _Counted(nn.Module):
    """All that costs: of Mask R-CNN 1000 regions and the masks of 100; overlaps are free, as in fvcore."""

    head: RetinaHead | RegionHead

    def __init__(self, model: Detector) -> None:
        super().__init__()
        for name, part in model.named_children():
            self.add_module(name, part)
        for name, parameter in model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        self._guided = model.run  # not a part, or every name would begin with it

    def forward(self, images: Tensor) -> None:
        """One picture (1, 3, H, W)."""
        pyramid, head = self._guided(images).pyramid, self.head
        if isinstance(head, RetinaHead):
            head.outputs(pyramid)
            return
        head.rpn.head(list(pyramid))
        regions, channels = head.roi_heads, pyramid[0].shape[1]
        boxes = images.new_zeros(REGIONS, channels, BOX_SIDE, BOX_SIDE)
        regions.box_predictor(regions.box_head(boxes))
        masks = images.new_zeros(MASKED, channels, MASK_SIDE, MASK_SIDE)
        regions.mask_predictor(regions.mask_head(masks))


@cache
def _coco_tokens() -> Tensor:
    return tokenizer_for({}, "CLIP")(coco_things())
