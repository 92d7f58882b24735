"""Trained detectors: pictures in, things out, drawn and in COCO's form."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from denseclip import outputs
from denseclip.clip import ImageStats
from denseclip.clip.clip import OPENAI_STATS
from denseclip.data.things import Runs, decode, encode
from denseclip.data.transforms import ResizeRule, normalize, resize_image
from denseclip.detection.config import Detections, DetectorConfig
from denseclip.detection.model import Detector, build_detector
from denseclip.detection.official import load_official_detector
from denseclip.errors import UserError
from denseclip.io import atomic_path
from denseclip.models.checkpoint import fingerprint_of, read_saved, restore, trained_kind
from denseclip.models.config import DenseClipConfig
from denseclip.models.encoders import Shapes
from denseclip.segment.palette import class_colors

Array = NDArray[np.uint8]
OPACITY = 0.5


def draw_things(
    image: Array,
    boxes: NDArray[np.float32],
    labels: Sequence[int],
    classes: Sequence[str],
    *,
    scores: Sequence[float] | None = None,
    masks: Sequence[Runs] | None = None,
) -> Array:
    """A picture (H, W, 3) uint8 RGB with boxes (N, 4), x0, y0, x1, y1 in its pixels, of classes (N,).

    scores: written behind the names. masks: painted; the first of the things, which is the best, lies on top.
    Each class has its color. Returns (H, W, 3) uint8.
    """
    palette = class_colors(classes)
    painted = image.copy()
    order = range(len(labels) - 1, -1, -1)
    for i in order if masks is not None else ():
        assert masks is not None
        inside = decode(masks[i]).astype(bool)
        painted[inside] = (painted[inside] * (1 - OPACITY) + palette[labels[i]] * OPACITY).astype(np.uint8)
    canvas = Image.fromarray(painted)
    draw = ImageDraw.Draw(canvas)
    line = max(1, round(max(image.shape[:2]) / 300))
    font = ImageFont.load_default(max(10, round(max(image.shape[:2]) / 45)))
    for i in order:
        color = tuple(int(part) for part in palette[labels[i]])
        box = [float(side) for side in boxes[i]]
        draw.rectangle(box, outline=color, width=line)
        text = classes[labels[i]] + ("" if scores is None else f" {scores[i]:.2f}")
        _tag(draw, (box[0], box[1]), canvas.width, text, color, font)
    return np.asarray(canvas)


def _tag(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    width: int,
    text: str,
    color: tuple[int, ...],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """A name on its color, above the corner; at an edge of the picture, `width` across, below or further left."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    across, down = right - left + 4, bottom - top + 4
    x, y = max(0.0, min(corner[0], width - 1 - across)), corner[1] - down
    y = corner[1] if y < 0 else y
    draw.rectangle((x, y, x + across, y + down), fill=color)
    dark = sum(color) > 380
    draw.text((x + 2 - left, y + 2 - top), text, fill="black" if dark else "white", font=font)


@dataclass(frozen=True)
class Detected:
    """N things in a picture (H, W, 3) uint8 RGB, best first.

    boxes: (N, 4) float32, x0, y0, x1, y1 in pixels. scores: (N,) float32 in 0..1. labels: (N,) indices of `classes`.
    runs: their masks as COCO's run lengths, None of a detector without masks.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    runs: tuple[Runs, ...] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> "Detected":
        """Those with at least this score."""
        kept = np.flatnonzero(self.scores >= threshold)
        runs = None if self.runs is None else tuple(self.runs[i] for i in kept)
        return Detected(
            self.image, self.boxes[kept], self.scores[kept], self.labels[kept], self.classes, runs
        )

    @property
    def names(self) -> list[str]:
        """The class of each."""
        return [self.classes[k] for k in self.labels]

    def mask(self, index: int) -> NDArray[np.bool_]:
        """(H, W) of one thing; only of a detector with masks."""
        assert self.runs is not None
        return decode(self.runs[index]).astype(bool)

    def overlay(self) -> Image.Image:
        """The picture with boxes, names, scores and masks."""
        labels, scores = self.labels.tolist(), self.scores.tolist()
        return Image.fromarray(
            draw_things(self.image, self.boxes, labels, self.classes, scores=scores, masks=self.runs)
        )

    def _repr_png_(self) -> bytes:
        """The overlay, for notebooks."""
        buffer = io.BytesIO()
        self.overlay().save(buffer, "PNG")
        return buffer.getvalue()

    def save(self, folder: Path | str, stem: str = "picture") -> Path:
        """Write STEM-detected.png, atomically; returns its path. UserError if there is a file that is not ours."""
        outputs.mark(Path(folder), "save")
        path = Path(folder) / f"{stem}-detected.png"
        with atomic_path(path) as temporary:
            self.overlay().save(temporary)
        return path

    def to_coco(self, image_id: int, categories: Sequence[int]) -> list[dict[str, Any]]:
        """Entries of a COCO results file; categories: the id of each class."""
        found = []
        for i, (x0, y0, x1, y1) in enumerate(self.boxes.astype(float).tolist()):
            entry = {
                "image_id": image_id,
                "category_id": categories[int(self.labels[i])],
                "bbox": [round(side, 2) for side in (x0, y0, x1 - x0, y1 - y0)],
                "score": round(float(self.scores[i]), 5),
            }
            if self.runs is not None:
                counts = self.runs[i]["counts"]
                text = counts.decode("ascii") if isinstance(counts, bytes) else counts
                entry["segmentation"] = {"size": list(self.runs[i]["size"]), "counts": text}
            found.append(entry)
        return found


CELL = 32  # the sides of the network's input are whole cells
SURE = 0.5  # probability from which a pixel is of the thing
PAPER_RESIZE = "1333x800"


def detector_contents(model: Detector, stats: ImageStats, resize: str) -> dict[str, Any]:
    """What a checkpoint needs beside the weights. stats: how its pictures are normalized; resize: and resized."""
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
        """Rebuild from a checkpoint's content, see `detector_contents`; every weight has to be there."""
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
        pixels = normalize(small, self.stats.mean, self.stats.std)  # (3, h, w)
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

    Every pixel whose center is in the box looks the probability up bilinearly, as mmdetection does it.
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


def load_detector(
    path: str | Path, device: torch.device, dtype: torch.dtype = torch.float32
) -> TrainedDetector:
    """The detector in a file of `denseclip train` or of the official code (COCO's classes).

    Raises UserError if it cannot be read or rebuilt, or is no detector.
    """

    kind = trained_kind(path)
    if kind == "denseclip detector":
        return TrainedDetector.published(Path(path), device, dtype)
    saved = read_saved(path)
    if saved["system"] != "detection":
        raise UserError(f"{path} is no detector but a model that segments; use `denseclip segment`")
    return TrainedDetector.of(str(path), saved, device, dtype)
