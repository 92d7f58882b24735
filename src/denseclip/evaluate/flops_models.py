"""Models whose cost can be counted: those of the papers by name, and any other model of the library."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseclip.clip import Clip, load_clip
from denseclip.clip.clip import OPENAI_STATS
from denseclip.clip.config import check
from denseclip.clip.model import build_towers, without_values
from denseclip.clip.pretrained import EMBEDDED, find_pretrained, is_known
from denseclip.clip.tokenizer import tokenizer_for
from denseclip.detection.config import Kind
from denseclip.detection.predict import load_detector
from denseclip.evaluate.flops import Cost, Size, Subject, count
from denseclip.evaluate.flops_detection import detector, subject_of_detector
from denseclip.models.build import build_denseclip
from denseclip.models.checkpoint import DETECTORS, trained_kind
from denseclip.models.config import DenseClipConfig
from denseclip.models.encoders import (
    BackboneShape,
    ResNetShape,
    Shapes,
    TextShape,
    VitShape,
    default_out_indices,
)
from denseclip.models.trained import TrainedDenseClip, load_trained
from denseclip.segment.attention import DenseEncoder
from denseclip.text import class_set

DEFAULT_SIZE = (1024, 1024)
OFFICIAL_TOKENS, CONTEXTS = 5, 8
DECONVOLUTIONS = (
    "the published figure counts the pyramid's transposed convolutions at the size of their output, as old "
    "versions of fvcore did: {at_output:.1f} in that way"
)


@dataclass(frozen=True)
class Published:
    """A row of a paper's table. size: of its input (H, W). why: what differs; {at_output} GMACs are filled in."""

    build: Callable[[], Subject]
    gmacs: float
    params: float  # millions, without the text encoder
    size: Size = DEFAULT_SIZE
    why: str = ""

    def explain(self, cost: Cost) -> str:
        """`why` with this cost's figures."""
        return self.why.format(at_output=(cost.at_output - cost.text_macs) / 1e9)


def _fpn(backbone: BackboneShape, embed_dim: int, *, language: bool) -> Callable[[], Subject]:
    return lambda: _segmenter(backbone, embed_dim, language=language)


def _detector(kind: Kind, backbone: ResNetShape, embed_dim: int, *, language: bool) -> Callable[[], Subject]:
    return detector(kind, backbone.layers, embed_dim, TEXT, language=language)


def _resnet(layers: tuple[int, int, int, int]) -> ResNetShape:
    return ResNetShape(layers, width=64, heads=32, grid=16)


TEXT = TextShape(512, 12, 8, 2048, OFFICIAL_TOKENS + CONTEXTS, 49408)
COCO_SIZE = (800, 1280)
MASKS = (
    "the published figure counts the mask head's transposed convolution at the size of its output, as old versions "
    "of fvcore did: {at_output:.1f} in that way"
)
SCORES = (
    MASKS + "; the rest results if the score map is computed at stride 4 too, probably in an earlier version"
)
RN50, RN101 = _resnet((3, 4, 6, 3)), _resnet((3, 4, 23, 3))
VIT_B = VitShape(16, 768, 12, 12, 3072, grid=40, out_indices=default_out_indices(12))

SEGMENTERS = {  # Semantic FPN on ADE20K, 1024 x 1024, 150 classes
    "fpn-rn50": Published(_fpn(RN50, 1024, language=False), 248.8, 31.0),
    "denseclip-fpn-rn50": Published(
        _fpn(RN50, 1024, language=True),
        269.2,
        50.3,
        why="269.2 results without the batch norms, and 50.3 M with 16 contexts in place of the released 8: the "
        "published row probably is of an earlier configuration",
    ),
    "fpn-rn101": Published(_fpn(RN101, 512, language=False), 326.6, 50.0),
    "denseclip-fpn-rn101": Published(_fpn(RN101, 512, language=True), 346.3, 67.8),
    "fpn-vit-b": Published(
        _fpn(VIT_B, 512, language=False),
        1037.4,
        100.8,
        why=DECONVOLUTIONS
        + "; 100.8 M results with positions for 512 pixels, the released configuration has 640",
    ),
    "denseclip-fpn-vit-b": Published(_fpn(VIT_B, 512, language=True), 1043.1, 105.3, why=DECONVOLUTIONS),
}
_COCO: tuple[tuple[str, Kind, ResNetShape, int, bool, float, float, str], ...] = (  # the README's eight rows
    ("retinanet-rn50", "retinanet", RN50, 1024, False, 265, 38, ""),
    ("denseclip-retinanet-rn50", "retinanet", RN50, 1024, True, 285, 60, ""),
    ("retinanet-rn101", "retinanet", RN101, 512, False, 341, 57, ""),
    ("denseclip-retinanet-rn101", "retinanet", RN101, 512, True, 360, 78, ""),
    ("maskrcnn-rn50", "maskrcnn", RN50, 1024, False, 301, 44, MASKS),
    ("denseclip-maskrcnn-rn50", "maskrcnn", RN50, 1024, True, 327, 67, SCORES),
    ("maskrcnn-rn101", "maskrcnn", RN101, 512, False, 377, 63, MASKS),
    ("denseclip-maskrcnn-rn101", "maskrcnn", RN101, 512, True, 399, 84, SCORES),
)
PUBLISHED: dict[str, Published] = SEGMENTERS | {
    name: Published(_detector(kind, net, dim, language=language), gmacs, params, COCO_SIZE, why)
    for name, kind, net, dim, language, gmacs, params, why in _COCO
}


def subject_of(model: str) -> Subject:
    """A model by name or path, on the meta device.

    A name of `PUBLISHED`; the path of a trained checkpoint; or whatever `load_clip` takes: its dense image tower and
    its text tower with one sentence. Raises UserError for what there is not.
    """
    if model in PUBLISHED:
        return PUBLISHED[model].build()
    return _trained(model) if trained_kind(model) else _dense_clip(_on_meta(model))


def cost_of(model: str, size: Size | None = None) -> Cost:
    """The cost of a model for one picture of size (H, W); default: the published row's, or 1024 x 1024."""
    if size is None:
        size = PUBLISHED[model].size if model in PUBLISHED else DEFAULT_SIZE
    return count(subject_of(model), size)


def _segmenter(backbone: BackboneShape, embed_dim: int, *, language: bool) -> Subject:
    shapes = Shapes(backbone, TEXT if language else None, embed_dim)
    tokens = _ade_tokens()
    with torch.device("meta"):
        model = build_denseclip(
            DenseClipConfig(language=language), shapes, class_set("ade"), tokenize=lambda names: tokens
        )
    model.eval()

    def run(images: Tensor) -> Tensor:
        size = (images.shape[2], images.shape[3])
        return F.interpolate(model(images), size, mode="bilinear", align_corners=False)

    return Subject(model, run, "text_encoder" if language else "")


@cache
def _ade_tokens() -> Tensor:
    return tokenizer_for({}, "CLIP")(class_set("ade"))


def _trained(path: str) -> Subject:
    if trained_kind(path) in DETECTORS:
        return subject_of_detector(load_detector(path, torch.device("cpu")).model.to("meta"))
    trained = load_trained(path, torch.device("cpu"), torch.float32)
    if isinstance(trained, TrainedDenseClip):
        net: nn.Module = trained.model.to("meta")  # its `network` does without the text encoder
    else:
        net = trained.network(None, ())[0].to("meta")
    return Subject(net, net, "text_encoder" if hasattr(net, "text_encoder") else "")


class _DenseClip(nn.Module):
    """A CLIP's dense image side and its text side as one module with two parts."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.image, self.text = clip.visual, clip.text
        self._encode = DenseEncoder(clip).encode

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """One picture, and one sentence of full length."""
        sentence = torch.zeros(1, self.text.context_length, dtype=torch.long, device=images.device)
        return self._encode(images).map, self.text(sentence)


def _dense_clip(clip: Clip) -> Subject:
    net = _DenseClip(clip)
    return Subject(net, net, "text")


def _on_meta(model: str) -> Clip:
    """A CLIP without values: by its configuration if it has a name, else as its file says."""
    if model in EMBEDDED or not is_known(model):
        return copy.deepcopy(load_clip(model)).to("meta")
    entry = find_pretrained(model, None)
    config = check(entry.config, entry.label)
    towers = without_values(lambda: build_towers(config))
    return Clip(
        model,
        towers.visual,
        towers.text,
        tokenizer_for({}, model),
        stats=OPENAI_STATS,
        image_size=config["vision_cfg"].get("image_size", 224),
        embed_dim=config["embed_dim"],
        logit_scale=100.0,
    )
