"""Trained detectors: pictures in, instances out, drawn and in COCO's form; and a RetinaNet as a file of its own."""

import io
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from denseclip import outputs
from denseclip.clip import ImageStats
from denseclip.clip.clip import OPENAI_STATS
from denseclip.data.instances import Rle, decode, encode
from denseclip.data.transforms import ResizeRule, normalize, resize_image
from denseclip.detection.config import Detections, DetectorConfig
from denseclip.detection.model import STRIDE, Detector, build_detector, load_official_detector
from denseclip.detection.retinanet import Anchors, RetinaHead
from denseclip.errors import UserError
from denseclip.io import atomic_path
from denseclip.models.checkpoint import read_saved, restore, trained_kind
from denseclip.models.config import DenseClipConfig
from denseclip.models.denseclip import FixedTexts
from denseclip.models.encoders import Shapes
from denseclip.models.portable import ExportFormat, write_graph
from denseclip.models.trained import contents_of
from denseclip.segment.attention import DenseFeatures
from denseclip.segment.interface import TrainedModel
from denseclip.segment.paint import class_colors
from denseclip.segment.regions import Regions, stack_regions
from denseclip.text import ClassEmbeddings, ClassPrompts, EmbeddingCache

Array = NDArray[np.uint8]
OPACITY = 0.5


def draw_instances(
    image: Array,
    boxes: NDArray[np.float32],
    labels: Sequence[int],
    classes: Sequence[str],
    *,
    scores: Sequence[float] | None = None,
    masks: Sequence[Rle] | None = None,
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
class DetectionResult:
    """N things in a picture (H, W, 3) uint8 RGB, best first.

    boxes: (N, 4) float32, x0, y0, x1, y1 in pixels. scores: (N,) float32 in 0..1. labels: (N,) indices of `classes`.
    runs: their masks as COCO's run lengths, None of a detector without masks.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    runs: tuple[Rle, ...] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> "DetectionResult":
        """Those with at least this score."""
        kept = np.flatnonzero(self.scores >= threshold)
        runs = None if self.runs is None else tuple(self.runs[i] for i in kept)
        return DetectionResult(
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

    def regions(self) -> tuple[Regions, NDArray[np.float32]]:
        """A region for each thing that has pixels, labeled from 1 on, and its score; the best first.

        Without masks, regions are the boxes, in whole pixels.
        """
        height, width = self.image.shape[:2]
        masks = self._rectangles() if self.runs is None else (self.mask(i) for i in range(len(self)))
        regions = stack_regions(masks, height, width)
        which = regions.label
        return replace(regions, label=self.labels[which] + 1), self.scores[which]

    def _rectangles(self) -> Iterator[NDArray[np.bool_]]:
        for x0, y0, x1, y1 in np.rint(self.boxes).astype(int).tolist():
            mask = np.zeros(self.image.shape[:2], bool)
            mask[y0:y1, x0:x1] = True
            yield mask

    def overlay(self) -> Image.Image:
        """The picture with boxes, names, scores and masks."""
        labels, scores = self.labels.tolist(), self.scores.tolist()
        return Image.fromarray(
            draw_instances(self.image, self.boxes, labels, self.classes, scores=scores, masks=self.runs)
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
SCORE = 0.5  # from which a thing counts in a mask
PAPER_RESIZE = "1333x800"


def detector_contents(model: Detector, stats: ImageStats, resize: str) -> dict[str, Any]:
    """What a checkpoint needs beside the weights. stats: how its pictures are normalized; resize: and resized."""
    return {**contents_of(model, stats), "detector": model.detector.to_dict(), "resize": resize}


class TrainedDetector(TrainedModel):
    """A detector with the way its pictures are made ready."""

    model: Detector

    def __init__(self, name: str, model: Detector, stats: ImageStats, resize: ResizeRule) -> None:
        class_prompts = ClassPrompts(model.classes, tuple((one.strip(),) for one in model.classes))
        super().__init__(name, model, class_prompts, stats)
        self.resize = resize

    @classmethod
    def of(cls, name: str, saved: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Self:
        """Rebuild from a checkpoint's content, see `detector_contents`; every weight has to be there."""
        contents = saved["contents"]
        config = replace(DenseClipConfig.from_dict(contents["config"]), timm_pretrained=False)
        detector = DetectorConfig.from_dict(contents["detector"])
        model = build_detector(config, detector, Shapes.from_dict(contents["shapes"]), contents["classes"])
        restore(model, saved, name)
        stats = {part: tuple(values) for part, values in contents["stats"].items()}
        return cls(name, model, ImageStats(**stats), ResizeRule.parse(contents["resize"])).to(device, dtype)

    @classmethod
    def published(cls, path: Path, device: torch.device, dtype: torch.dtype) -> Self:
        """A checkpoint of the official code, trained on COCO, see `load_official_detector`."""
        resize = ResizeRule.parse(PAPER_RESIZE)
        return cls(str(path), load_official_detector(path), OPENAI_STATS, resize).to(device, dtype)

    @property
    def classes(self) -> tuple[str, ...]:
        """What it finds."""
        return self.model.classes

    @property
    def masks(self) -> bool:
        """Whether it finds masks too."""
        return self.model.detector.kind == "maskrcnn"

    @property
    def kind(self) -> str:
        """In a few words, for `describe`."""
        head = {"retinanet": "RetinaNet", "maskrcnn": "Mask R-CNN"}[self.model.detector.kind]
        return f"{'DenseCLIP' if self.model.config.language else 'fine-tuned CLIP'}, {head}"

    def embed(
        self, class_prompts: ClassPrompts, templates: Sequence[str], cache: EmbeddingCache | None
    ) -> ClassEmbeddings:
        """Rows (P, K) that choose among its own classes; UserError for other words."""
        del templates, cache
        places = self.own_places(class_prompts)
        if None in places:
            other = class_prompts.words[places.index(None)]
            raise UserError(
                f"{self.name} is a detector and does not find {other!r}; use classes of its own: "
                f"{', '.join(self.classes[:5])}, ..."
            )
        rows = F.one_hot(torch.tensor(places, device=self.device), len(self.classes)).float()
        return ClassEmbeddings(
            rows, torch.tensor(class_prompts.class_of_prompt, device=self.device), class_prompts.classes
        )

    def encode(self, images: Tensor, *, keys: bool = False) -> DenseFeatures:
        """Images (B, 3, H, W), normalized -> `score_planes`, as `map`."""
        assert not keys
        size = (images.shape[2], images.shape[3])
        found = self._run(images)
        return DenseFeatures(torch.stack([score_planes(one, len(self.classes), size) for one in found]))

    def scores(self, features: DenseFeatures, matrix: Tensor) -> Tensor:
        """The planes (B, P, h, w) that the rows of `matrix` (P, K) choose."""
        return features.map[:, matrix.argmax(1)]

    def detect(self, image: NDArray[np.uint8]) -> DetectionResult:
        """What is in a picture (H, W, 3) uint8 RGB, in its own pixels, best first."""
        return self.look(image)[0]

    @torch.inference_mode()
    def look(self, image: NDArray[np.uint8]) -> tuple[DetectionResult, Tensor]:
        """What is in a picture (H, W, 3) uint8 RGB, in its own pixels, and its `score_planes`."""
        small = resize_image(image, self.resize)
        h, w = small.shape[:2]
        (found,) = self._run(normalize(small, self.stats.mean, self.stats.std)[None])
        planes = score_planes(found, len(self.classes), (h, w))
        return self._at_full_size(image, found, image.shape[0] / h, image.shape[1] / w), planes

    def _run(self, images: Tensor) -> list[Detections]:
        """Images (B, 3, h, w), normalized, padded to whole cells here."""
        h, w = images.shape[2:]
        padded = F.pad(images, (0, -w % CELL, 0, -h % CELL)).to(next(self.parameters()))
        return self.model(padded, torch.tensor([[h, w]] * len(images)))

    def _at_full_size(
        self, image: NDArray[np.uint8], found: Detections, down: float, right: float
    ) -> DetectionResult:
        boxes = found.boxes.float().cpu() * torch.tensor([right, down, right, down])
        size = (image.shape[0], image.shape[1])
        masks = None
        if found.masks is not None:
            each = zip(found.masks.float().cpu(), boxes, strict=True)
            masks = tuple(paste(mask[0], box, size) for mask, box in each)
        return DetectionResult(
            image,
            boxes.numpy(),
            found.scores.float().cpu().numpy(),
            found.labels.cpu().numpy(),
            self.classes,
            masks,
        )


def score_planes(found: Detections, classes: int, size: tuple[int, int]) -> Tensor:
    """The highest score of each class's things in every cell of `STRIDE` pixels of an image (H, W): (K, h, w).

    A cell is of a thing if its center is in the box and, where there are masks, in the mask; 0 without a thing.
    """
    rows, columns = (
        (torch.arange(-(-side // STRIDE), device=found.boxes.device) + 0.5) * STRIDE for side in size
    )
    planes = []
    for index in range(classes):
        own = (found.labels == index).nonzero()[:, 0]
        masks = None if found.masks is None else found.masks[own]
        inside = covered(found.boxes[own], masks, rows, columns)  # (n, h, w)
        values = torch.where(inside, found.scores[own, None, None], 0.0)
        planes.append(values.amax(0) if len(own) else values.sum(0))
    return torch.stack(planes)


def covered(boxes: Tensor, masks: Tensor | None, rows: Tensor, columns: Tensor) -> Tensor:
    """Which points of a grid, y of (h,) and x of (w,), lie in boxes (N, 4), and in their masks (N, 1, 28, 28) if any.

    Points look the probability of a mask up bilinearly, as mmdetection does it. Returns (N, h, w) bool.
    """
    x0, y0, x1, y1 = boxes.detach()[:, :, None].unbind(1)  # (N, 1)
    across, down = (columns - x0) / (x1 - x0) * 2 - 1, (rows - y0) / (y1 - y0) * 2 - 1  # (N, w), (N, h)
    if masks is None or not len(boxes):
        return (across.abs() <= 1)[:, None, :] & (down.abs() <= 1)[:, :, None]
    shape = (len(boxes), len(rows), len(columns))
    grid = torch.stack([across[:, None, :].expand(shape), down[:, :, None].expand(shape)], -1)
    return F.grid_sample(masks.detach().float(), grid.float(), align_corners=False)[:, 0] >= SURE


def paint_instances(
    regions: Regions, scores: NDArray[np.float32], threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The label of the best thing at every pixel, 0 where its score is below a threshold, and confidence.

    regions: things, the best first, with `scores`. A pixel's confidence is the score of the best thing there; where
    that is below the threshold, and the pixel background, 1 - score. Returns (H, W) each.
    """
    top = regions.paint(np.arange(1, len(regions) + 1))  # (H, W), 0 where there is nothing
    score = np.append(np.float32(0), scores)[top]
    sure = (top > 0) & (score >= threshold)
    return np.where(sure, np.append(0, regions.label)[top], 0), np.where(sure, score, 1 - score)


def paste(mask: Tensor, box: Tensor, size: tuple[int, int]) -> Rle:
    """Probabilities (28, 28) within a box of a picture of `size` (H, W) -> its mask there.

    See `covered`; points are the centers of pixels.
    """
    x0, y0, x1, y1 = box.tolist()
    left, top = max(0, int(np.floor(x0))), max(0, int(np.floor(y0)))
    right, bottom = min(size[1], int(np.ceil(x1))), min(size[0], int(np.ceil(y1)))
    full = np.zeros(size, np.uint8, order="F")
    if right > left and bottom > top and x1 > x0 and y1 > y0:
        rows, columns = torch.arange(top, bottom) + 0.5, torch.arange(left, right) + 0.5
        full[top:bottom, left:right] = covered(box[None], mask[None, None], rows, columns)[0].numpy()
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


OUTPUTS = ("boxes", "scores")
LARGEST = log(1000 / 16)  # logarithm of how much larger than its anchor a box may be


class ExportedRetinaNet(nn.Module):
    """Pixels to boxes: normalization, network and decoding in one graph, without the choice among them.

    Input (B, 3, H, W) float32 RGB, 0..255, sides multiples of 32 from 64 on (what is left is padded, best with the
    mean color). Output: boxes (B, A, 4), x0, y0, x1, y1 in its pixels, and scores (B, A, K) in 0..1. To be kept are
    scores above 0.05, class by class those that non-maximum suppression at 0.5 leaves.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, detector: Detector, stats: ImageStats) -> None:
        super().__init__()
        self.detector = deepcopy(detector).eval()
        with torch.no_grad():
            _fix_words(self.detector)
        self.register_buffer("mean", torch.tensor(stats.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(stats.std).view(1, 3, 1, 1) * 255)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        head = self.detector.head
        assert isinstance(head, RetinaHead) and isinstance(head.anchor_generator, Anchors)
        pyramid = self.detector.run((image - self.mean) / self.std).pyramid
        boxes, scores = [], []
        for number, one in enumerate(
            pyramid
        ):  # by itself: that sums of sizes are equal takes minutes to prove
            outputs = head.outputs([one])
            anchors = head.anchor_generator.at(number, one)  # (A, 4)
            boxes.append(self._boxes(anchors, outputs["bbox_regression"]))
            scores.append(outputs["cls_logits"].sigmoid())
        found = torch.cat(boxes, dim=1)
        x, y = found[..., 0::2].clamp(0, image.shape[3]), found[..., 1::2].clamp(0, image.shape[2])
        return torch.stack([x, y], dim=3).flatten(2), torch.cat(scores, dim=1)

    def _boxes(self, anchors: Tensor, deltas: Tensor) -> Tensor:
        """Anchors (A, 4), moved by deltas (B, A, 4)."""
        sides = anchors[:, 2:] - anchors[:, :2]  # (A, 2)
        centers = anchors[:, :2] + sides / 2 + deltas[..., :2] * sides  # (B, A, 2)
        least = -LARGEST if self.detector.detector.details.two_sided_deltas else None
        half = sides / 2 * deltas[..., 2:].clamp(least, LARGEST).exp()
        return torch.cat([centers - half, centers + half], dim=2)


def export_detector(detector: TrainedDetector, path: Path, *, kind: ExportFormat = "onnx") -> None:
    """Write a RetinaNet with its classes baked in, see `ExportedRetinaNet`; batch size and sides are free.

    Raises UserError for a Mask R-CNN, if `path` exists, or if ONNX's packages are missing.
    """
    if detector.masks:
        raise UserError(
            f"{detector.name} is a Mask R-CNN, whose regions no fixed graph has; export a retinanet"
        )
    module = ExportedRetinaNet(detector.model, detector.stats).eval()
    write_graph(module, OUTPUTS, detector.classes, path, kind=kind, cell=CELL)


def _fix_words(model: Detector) -> None:
    """The words' embeddings in place of the text encoder, unless it runs on every picture."""
    if model.config.language and model.config.prompting != "pre":
        kept = model.words.embeddings(model.text_encoder, model.contexts)
        model.words = FixedTexts(kept)  # type: ignore[assignment]
        model.text_encoder = nn.Identity()  # type: ignore[assignment]
