"""Parameters and multiply-accumulates of the published models and of ours."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from denseclip.clip import Clip, load_clip
from denseclip.clip.build import build_towers
from denseclip.clip.clip import OPENAI_STATS, tokenizer_for
from denseclip.clip.config import Config, check
from denseclip.clip.pretrained import EMBEDDED, find_pretrained, is_known
from denseclip.clip.towers import without_values
from denseclip.detection.config import DetectorConfig, guidance_config
from denseclip.detection.mask_rcnn import BOX_SIDE, MASK_SIDE, RegionHead
from denseclip.detection.model import Detector, build_detector
from denseclip.detection.predict import load_detector
from denseclip.detection.retinanet import RetinaHead
from denseclip.models.checkpoint import DETECTORS, trained_kind
from denseclip.models.config import DenseClipConfig
from denseclip.models.denseclip import build_denseclip
from denseclip.models.encoders import Shapes
from denseclip.models.trained import TrainedDenseClip, load_trained
from denseclip.segment.attention import DenseEncoder
from denseclip.text import class_set
from denseclip.text.prompts import coco_things

Size = tuple[int, int]
Shape = tuple[int, ...]
aten = torch.ops.aten
GIGA = 1e9


@dataclass(frozen=True)
class Subject:
    """A model on the meta device, and how it is run.

    run: one picture (1, 3, H, W), on the meta device, through all of it. net: what holds its parameters. text: the
    name of the part of `net` that reads words, "" if there is none.
    """

    net: nn.Module
    run: Callable[[Tensor], object]
    text: str = ""


@dataclass(frozen=True)
class Cost:
    """What one picture costs. macs, params: of all; text_*: of the text encoder among them.

    at_output: `macs` if transposed convolutions are counted at their output's size, as old versions of fvcore did.
    modules: macs by module name.
    """

    size: Size
    macs: int
    params: int
    text_macs: int = 0
    text_params: int = 0
    at_output: int = 0
    modules: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, float]:
        """GMACs and parameters, with and without the text encoder."""
        return {
            "gmacs": self.macs / GIGA,
            "gmacs_without_text": (self.macs - self.text_macs) / GIGA,
            "params": self.params,
            "params_without_text": self.params - self.text_params,
        }


def count(subject: Subject, size: Size) -> Cost:
    """Run one picture of size (H, W) and count.

    torch's own counter sees every operation that is dispatched, so einsum (a batched product), fused or plain
    attention and transposed convolutions are counted right; a multiply and an add are one MAC. To it are added, by
    the conventions of fvcore, which the published figures follow: 2 for an element of a batch norm in inference,
    5 of a layer or group norm, 4 of a bilinear and 1 of a nearest enlargement. Pooling, softmax, activations and
    sums are free.
    """
    tally = _Transposed()
    costs = {**_elementwise(), aten.convolution: tally}
    # Some versions of torch look an operation up by its overload before they take it apart, others by its name.
    costs |= {getattr(name, overload): cost for name, cost in costs.items() for overload in name.overloads()}
    counter = FlopCounterMode(display=False, custom_mapping=costs)
    image = torch.zeros(1, 3, *size, device="meta")
    subject.net.requires_grad_(False)  # the counter stumbles over weights that are given to a module
    with torch.no_grad(), counter:
        subject.run(image)
    modules = {
        name: sum(flops.values()) // 2
        for name, flops in counter.get_flop_counts().items()
        if name != "Global"
    }
    modules = {name.partition(".")[2]: macs for name, macs in modules.items() if "." in name}
    macs = counter.get_total_flops() // 2
    text = subject.net.get_submodule(subject.text) if subject.text else nn.Identity()
    return Cost(
        size=size,
        macs=macs,
        params=_parameters(subject.net),
        text_macs=modules.get(subject.text, 0),
        text_params=_parameters(text),
        at_output=macs + tally.more // 2,
        modules=modules,
    )


class _Transposed:
    """The cost of convolutions; remembers how much more transposed ones were at the output's size."""

    def __init__(self) -> None:
        self.more = 0

    def __call__(self, x: Shape, weight: Shape, *rest: Any, out_shape: Shape, **options: object) -> int:
        del options
        transposed = rest[4]  # after bias, stride, padding, dilation
        flops = conv_flop_count(list(x), list(weight), list(out_shape), transposed=transposed)
        if transposed:
            self.more += flops * prod(out_shape[2:]) // prod(x[2:]) - flops
        return flops


def _elementwise() -> dict[Any, Callable[..., int]]:
    def of_input(cost: int) -> Callable[..., int]:
        return lambda x, *rest, **options: 2 * cost * prod(x)

    def of_output(cost: int) -> Callable[..., int]:
        return lambda *inputs, out_shape, **options: 2 * cost * prod(out_shape)

    return {
        aten.native_batch_norm: of_input(2),
        aten.native_layer_norm: of_input(5),
        aten.native_group_norm: of_input(5),
        aten.upsample_bilinear2d: of_output(4),
        aten.upsample_nearest2d: of_output(1),
    }


def _parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


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


def _counted(model: Detector) -> Subject:
    net = _Counted(model)
    return Subject(net, net, "text_encoder" if model.config.language else "")


@cache
def _tokens(names: tuple[str, ...]) -> Tensor:
    return tokenizer_for({}, "CLIP")(names)


def subject_of_denseclip(config: DenseClipConfig, shapes: Shapes, names: tuple[str, ...]) -> Subject:
    """A DenseCLIP without values, with its logits at the size of the picture."""
    tokens = _tokens(names)
    with torch.device("meta"):
        model = build_denseclip(config, shapes, names, tokenize=lambda names: tokens).eval()

    def run(images: Tensor) -> Tensor:
        size = (images.shape[2], images.shape[3])
        return F.interpolate(model(images), size, mode="bilinear", align_corners=False)

    return Subject(model, run, "text_encoder" if config.language else "")


def subject_of_detector(
    config: DenseClipConfig, detector: DetectorConfig, shapes: Shapes, names: tuple[str, ...]
) -> Subject:
    """A detector without values."""
    tokens = _tokens(names)
    with torch.device("meta"):
        model = build_detector(config, detector, shapes, names, tokenize=lambda names: tokens).eval()
    return _counted(model)


@dataclass(frozen=True)
class Published:
    """A row of a paper's table.

    kind: "fpn" for Semantic FPN on ADE20K's classes, or of a detector for COCO's. backbone, embed_dim: of its CLIP.
    language: whether it has words. gmacs, params: as printed, params in millions, both without the text encoder.
    why: what differs from ours; {at_output} GMACs are filled in.
    """

    kind: Literal["fpn", "retinanet", "maskrcnn"]
    backbone: Config
    embed_dim: int
    language: bool
    gmacs: float
    params: float
    why: str = ""

    @property
    def size(self) -> Size:
        """Of its input (H, W)."""
        return DEFAULT_SIZE if self.kind == "fpn" else COCO_SIZE

    def explain(self, cost: Cost) -> str:
        """`why` with this cost's figures."""
        return self.why.format(at_output=(cost.at_output - cost.text_macs) / GIGA)

    def build(self) -> Subject:
        """The model, on the meta device."""
        shapes = Shapes(self.backbone, TEXT if self.language else None, self.embed_dim)
        names = class_set("ade") if self.kind == "fpn" else coco_things()
        if self.kind == "fpn":
            return subject_of_denseclip(DenseClipConfig(language=self.language), shapes, names)
        config = guidance_config({"language": self.language})
        return subject_of_detector(config, DetectorConfig(self.kind, "mmdet"), shapes, names)


def _resnet(layers: tuple[int, int, int, int], side: int) -> Config:
    return {"layers": layers, "width": 64, "image_size": side}


REGIONS, MASKED = 1000, 100  # regions whose class, and whose mask, is looked for in one picture
DEFAULT_SIZE, COCO_SIZE = (1024, 1024), (800, 1280)
TEXT: Config = {"context_length": 5 + 8}  # five tokens of a name and eight contexts
LAYERS50, LAYERS101 = (3, 4, 6, 3), (3, 4, 23, 3)
RN50, RN101 = _resnet(LAYERS50, 512), _resnet(LAYERS101, 512)  # pixels of their positions
DET50, DET101 = _resnet(LAYERS50, 1344), _resnet(LAYERS101, 1344)
VIT_B: Config = {"image_size": 640}
OLD_COUNT = (
    "the published figure counts {what} at the size of {its} output, as old versions of fvcore did: "
    "{{at_output:.1f}} in that way"
)
DECONVOLUTIONS = OLD_COUNT.format(what="the pyramid's transposed convolutions", its="their")
MASKS = OLD_COUNT.format(what="the mask head's transposed convolution", its="its")
SCORES = (
    MASKS + "; the rest results if the score map is computed at stride 4 too, probably in an earlier version"
)
EARLIER = (
    "269.2 results without the batch norms, and 50.3 M with 16 contexts in place of the released 8: the published "
    "row probably is of an earlier configuration"
)
POSITIONS = "; 100.8 M results with positions for 512 pixels, the released configuration has 640"
PUBLISHED = {
    "fpn-rn50": Published("fpn", RN50, 1024, False, 248.8, 31.0),
    "denseclip-fpn-rn50": Published("fpn", RN50, 1024, True, 269.2, 50.3, EARLIER),
    "fpn-rn101": Published("fpn", RN101, 512, False, 326.6, 50.0),
    "denseclip-fpn-rn101": Published("fpn", RN101, 512, True, 346.3, 67.8),
    "fpn-vit-b": Published("fpn", VIT_B, 512, False, 1037.4, 100.8, DECONVOLUTIONS + POSITIONS),
    "denseclip-fpn-vit-b": Published("fpn", VIT_B, 512, True, 1043.1, 105.3, DECONVOLUTIONS),
    "retinanet-rn50": Published("retinanet", DET50, 1024, False, 265, 38),
    "denseclip-retinanet-rn50": Published("retinanet", DET50, 1024, True, 285, 60),
    "retinanet-rn101": Published("retinanet", DET101, 512, False, 341, 57),
    "denseclip-retinanet-rn101": Published("retinanet", DET101, 512, True, 360, 78),
    "maskrcnn-rn50": Published("maskrcnn", DET50, 1024, False, 301, 44, MASKS),
    "denseclip-maskrcnn-rn50": Published("maskrcnn", DET50, 1024, True, 327, 67, SCORES),
    "maskrcnn-rn101": Published("maskrcnn", DET101, 512, False, 377, 63, MASKS),
    "denseclip-maskrcnn-rn101": Published("maskrcnn", DET101, 512, True, 399, 84, SCORES),
}


def subject_of(model: str) -> Subject:
    """A model by name or path, on the meta device.

    A name of `PUBLISHED`; the path of a trained checkpoint; or whatever `load_clip` takes: its dense image tower and
    its text tower with one sentence. Raises UserError for what there is not.
    """
    if model in PUBLISHED:
        return PUBLISHED[model].build()
    if trained_kind(model):
        return _trained(model)
    net = _DenseClip(clip_on_meta(model))
    return Subject(net, net, "text")


def cost_of(model: str, size: Size | None = None) -> Cost:
    """The cost of a model for one picture of size (H, W); default: the published row's, or 1024 x 1024."""
    if size is None:
        size = PUBLISHED[model].size if model in PUBLISHED else DEFAULT_SIZE
    return count(subject_of(model), size)


def _trained(path: str) -> Subject:
    if trained_kind(path) in DETECTORS:
        return _counted(load_detector(path, torch.device("cpu")).model.to("meta"))
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


def clip_on_meta(model: str) -> Clip:
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
        config=config,
        logit_scale=100.0,
    )
