"""Small detectors, and what there is to be found."""

import torch
from small_denseclip import CLASSES, RESNET, SMALL, tokenize

from clip_support import tiny_clip
from denseclip.detection.config import DetectorConfig, Instances, guidance_config
from denseclip.detection.model import Detector, build_detector
from denseclip.models.encoders import Shapes

KINDS = ("retinanet", "maskrcnn")


def small_detector(
    kind: str = "retinanet", shapes: Shapes = RESNET, detector: dict | None = None, **options
) -> Detector:
    """A detector in eval mode, the same at every call. detector: fields of `DetectorConfig`."""
    torch.manual_seed(0)
    config = guidance_config({**SMALL, "gamma": 0.5, **options})
    settings = DetectorConfig.from_dict({"kind": kind, "fc_width": 32, "regions": 16, **(detector or {})})
    return build_detector(config, settings, shapes, CLASSES, tokenize=tokenize).eval()


def detector_from_clip(kind: str, tower: str = "rn", **options) -> Detector:
    """A detector that starts from a small CLIP ("rn" or "vit"), in eval mode."""
    torch.manual_seed(0)
    config = guidance_config({**SMALL, **options})
    return build_detector(config, DetectorConfig(kind, fc_width=32), tiny_clip(tower), CLASSES).eval()


def things(*boxes, labels=None, size=(64, 96)) -> Instances:
    """Boxes with filled masks."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[int(y0) : int(y1), int(x0) : int(x1)] = 1
    found = labels if labels is not None else [i % len(CLASSES) for i in range(len(boxes))]
    return Instances(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4), torch.tensor(found, dtype=torch.int64), masks
    )


def sizes(images) -> torch.Tensor:
    """Nothing is padding."""
    return torch.tensor([images.shape[2:]] * len(images))
