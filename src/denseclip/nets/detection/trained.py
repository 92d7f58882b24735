"""A trained detector: pictures in, things out."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from denseclip.clip import ImageStats
from denseclip.clip.clip import OPENAI_STATS
from denseclip.data.things import Runs, encode
from denseclip.data.transforms import ResizeRule, normalise, resize_image
from denseclip.nets.denseclip.config import DenseClipConfig
from denseclip.nets.denseclip.shapes import Shapes
from denseclip.nets.detection.build import build_detector
from denseclip.nets.detection.config import DetectorConfig
from denseclip.nets.detection.detected import Detected
from denseclip.nets.detection.detector import Detector
from denseclip.nets.detection.instances import Detections
from denseclip.nets.detection.official import load_official_detector
from denseclip.nets.saved import fingerprint_of, restore

CELL = 32  # the sides of the network's input are whole cells
SURE = 0.5  # probability from which a pixel is of the thing
PAPER_RESIZE = "1333x800"


def contents_of(model: Detector, stats: ImageStats, resize: str) -> dict[str, Any]:
    """What a checkpoint needs beside the weights. stats: how its pictures are normalised; resize: and resized."""
    return {
        "config": model.config.to_dict(),
        "detector": model.detector.to_dict(),
        "shapes": model.shapes.to_dict(),
        "classes": list(model.classes),
        "stats": asdict(stats),
        "resize": resize,
    }


class TrainedDetector:
    """A detector with the way its pictures are made ready."""

    def __init__(self, name: str, model: Detector, stats: ImageStats, resize: ResizeRule) -> None:
        self.name, self.model, self.stats, self.resize = name, model.eval(), stats, resize

    @classmethod
    def of(cls, name: str, saved: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Self:
        """Rebuild from a checkpoint's content, see `contents_of`; every weight has to be there."""
        contents = saved["contents"]
        config = replace(DenseClipConfig.from_dict(contents["config"]), timm_pretrained=False)
        detector = DetectorConfig.from_dict(contents["detector"])
        model = build_detector(config, detector, Shapes.from_dict(contents["shapes"]), contents["classes"])
        restore(model, saved, name)
        stats = {part: tuple(values) for part, values in contents["stats"].items()}
        model.requires_grad_(False).to(device, dtype)
        return cls(name, model, ImageStats(**stats), ResizeRule.parse(contents["resize"]))

    @classmethod
    def published(cls, path: Path, device: torch.device, dtype: torch.dtype) -> Self:
        """A checkpoint of the official code, trained on COCO, see `load_official_detector`."""
        model = load_official_detector(path).requires_grad_(False).to(device, dtype)
        return cls(str(path), model, OPENAI_STATS, ResizeRule.parse(PAPER_RESIZE))

    @property
    def classes(self) -> tuple[str, ...]:
        """What it finds."""
        return self.model.classes

    @property
    def masks(self) -> bool:
        """Whether it finds masks too."""
        return self.model.detector.kind == "maskrcnn"

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 over all weights."""
        return fingerprint_of(self.model.state_dict())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def describe(self) -> str:
        """One line, the name first."""
        kind = "DenseCLIP" if self.model.config.language else "fine-tuned CLIP"
        head = {"retinanet": "RetinaNet", "maskrcnn": "Mask R-CNN"}[self.model.detector.kind]
        millions = sum(p.numel() for p in self.model.parameters()) / 1e6
        size = f"{len(self.classes)} classes, {millions:.1f} M parameters"
        return f"{self.name}: {kind}, {head}, {size} on {self.device}"

    @torch.inference_mode()
    def detect(self, image: NDArray[np.uint8]) -> Detected:
        """What is in a picture (H, W, 3) uint8 RGB, in its own pixels, best first."""
        small = resize_image(image, self.resize)
        h, w = small.shape[:2]
        pixels = normalise(small, self.stats.mean, self.stats.std)  # (3, h, w)
        pixels = F.pad(pixels, (0, -w % CELL, 0, -h % CELL))[None].to(next(self.model.parameters()))
        (found,) = self.model(pixels, torch.tensor([[h, w]]))
        return self._at_full_size(image, found, image.shape[0] / h, image.shape[1] / w)

    def _at_full_size(
        self, image: NDArray[np.uint8], found: Detections, down: float, right: float
    ) -> Detected:
        boxes = found.boxes.float().cpu() * torch.tensor([right, down, right, down])
        size = (image.shape[0], image.shape[1])
        masks = None
        if found.masks is not None:
            each = zip(found.masks.float().cpu(), boxes, strict=True)
            masks = tuple(paste(mask[0], box, size) for mask, box in each)
        return Detected(
            image,
            boxes.numpy(),
            found.scores.float().cpu().numpy(),
            found.labels.cpu().numpy(),
            self.classes,
            masks,
        )


def paste(mask: Tensor, box: Tensor, size: tuple[int, int]) -> Runs:
    """Probabilities (28, 28) within a box of a picture of `size` (H, W) -> its mask there.

    Every pixel whose centre is in the box looks the probability up bilinearly, as mmdetection does it.
    """
    x0, y0, x1, y1 = box.tolist()
    left, top = max(0, int(np.floor(x0))), max(0, int(np.floor(y0)))
    right, bottom = min(size[1], int(np.ceil(x1))), min(size[0], int(np.ceil(y1)))
    full = np.zeros(size, np.uint8, order="F")
    if right > left and bottom > top and x1 > x0 and y1 > y0:
        columns = (torch.arange(left, right) + 0.5 - x0) / (x1 - x0) * 2 - 1
        rows = (torch.arange(top, bottom) + 0.5 - y0) / (y1 - y0) * 2 - 1
        grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)[None]  # (1, h, w, 2): x, y
        seen = F.grid_sample(mask[None, None], grid, align_corners=False)[0, 0]  # (h, w)
        full[top:bottom, left:right] = (seen >= SURE).numpy()
    return encode(full)
