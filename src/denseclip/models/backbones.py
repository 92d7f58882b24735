"""Backbones of MaskCLIP+ students: ResNetV1c, timm's models, CLIP's own image tower; and layers of their heads."""

import socket
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseclip.clip.convert import from_timm
from denseclip.clip.towers import stage_rates
from denseclip.clip.weights import load_weights
from denseclip.errors import UserError

PATIENCE = 3.0  # seconds for a hub to answer


class Backbone(nn.Module):
    """A feature extractor: images (B, 3, H, W) -> maps, fine to coarse.

    `channels` and `reductions` (input pixels per cell) have one entry a map.
    """

    channels: tuple[int, ...]
    reductions: tuple[int, ...]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W), normalized -> maps (B, channels[i], H / reductions[i], W / reductions[i])."""
        raise NotImplementedError


class ConvModule(nn.Module):
    """Convolution without bias, batch norm, ReLU; the size is kept."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        dilation: int = 1,
        groups: int = 1,
        convolution: type[nn.Conv2d] = nn.Conv2d,
    ) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = convolution(
            inputs, outputs, kernel, padding=padding, dilation=dilation, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h, w), non-negative."""
        return F.relu(self.bn(self.conv(x)))


class SeparableConvModule(nn.Module):
    """A 3x3 convolution of every channel by itself, then a 1x1 across channels; batch norm and ReLU after both."""

    def __init__(self, inputs: int, outputs: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise_conv = ConvModule(inputs, inputs, 3, dilation=dilation, groups=inputs)
        self.pointwise_conv = ConvModule(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h, w), non-negative."""
        return self.pointwise_conv(self.depthwise_conv(x))


class RegionMean(nn.Module):
    """`nn.AdaptiveAvgPool2d(side)` as two matrix products, so that maps of any size can be exported."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, side, side)."""
        if self.side == 1:
            return x.mean((2, 3), keepdim=True)
        rows, columns = (self._weights(x.shape[axis], x) for axis in (2, 3))  # (side, h), (side, w)
        return rows @ x @ columns.T

    def _weights(self, length: int, like: Tensor) -> Tensor:
        """Which of `length` lines each region averages: floor(i length / side) to ceil((i + 1) length / side)."""
        region = torch.arange(self.side, device=like.device)[:, None]  # (side, 1)
        first = region * length // self.side
        end = ((region + 1) * length + self.side - 1) // self.side
        line = torch.arange(length, device=like.device)  # (length,)
        inside = ((line >= first) & (line < end)).to(like.dtype)
        return inside / (end - first)


def resize_like(x: Tensor, target: Tensor) -> Tensor:
    """Bilinear resize (align_corners=False) of (B, C, h, w) to the height and width of `target`."""
    return F.interpolate(x, size=target.shape[-2:], mode="bilinear")


def init_kaiming(module: nn.Module) -> None:
    """Kaiming-normal convolutions (fan out), batch norms that change nothing: mmsegmentation's start."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


@dataclass(frozen=True)
class ResNetShape:
    """blocks: of each stage. bottleneck: blocks of 1x1, 3x3, 1x1, four times as wide outside as inside.

    stem: channels after the stem; base: inner width of stage 1, doubled by every stage.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool = True
    stem: int = 64
    base: int = 64


RESNETS = {
    "resnet18": ResNetShape((2, 2, 2, 2), bottleneck=False),
    "resnet50": ResNetShape((3, 4, 6, 3)),
    "resnet101": ResNetShape((3, 4, 23, 3)),
}


class ResNet(Backbone):
    """ResNetV1c with maps of four stages at strides 4, 8, then up to `output_stride` (MaskCLIP, section d.1).

    In a dilated stage the first block takes half the dilation ("contracted"). Raises UserError for an output
    stride other than 8, 16 and 32.
    """

    def __init__(self, shape: ResNetShape, output_stride: int = 8) -> None:
        super().__init__()
        strides, dilations = stage_rates(output_stride)
        half = shape.stem // 2
        self.stem = nn.Sequential(
            *_conv_bn_relu(3, half, stride=2),
            *_conv_bn_relu(half, half),
            *_conv_bn_relu(half, shape.stem),
        )
        block = Bottleneck if shape.bottleneck else BasicBlock
        width, channels, reduction, reductions = shape.stem, [], 4, []
        for i in range(4):
            inner = shape.base * 2**i
            stage = _stage(block, shape.blocks[i], width, inner, strides[i], dilations[i])
            self.add_module(f"layer{i + 1}", stage)
            width = inner * block.expansion
            reduction *= strides[i]
            channels.append(width)
            reductions.append(reduction)
        self.channels, self.reductions = tuple(channels), tuple(reductions)
        init_kaiming(self)
        for part in self.modules():  # every block starts as its shortcut
            if isinstance(part, BasicBlock | Bottleneck):
                nn.init.zeros_(part.last_norm.weight)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) -> four maps, the sizes rounded up."""
        x = F.max_pool2d(self.stem(images), 3, stride=2, padding=1)  # (B, stem, H/4, W/4)
        maps = []
        for i in range(4):
            x = self.get_submodule(f"layer{i + 1}")(x)
            maps.append(x)
        return maps


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; stride and dilation are on the first."""

    expansion = 1

    def __init__(self, inputs: int, inner: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.downsample = _shortcut(inputs, inner, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm before the sum with the shortcut."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, inner, h / stride, w / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 with stride and dilation, 1x1 to four times the width, and a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, inner: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, 4 * inner, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * inner)
        self.downsample = _shortcut(inputs, 4 * inner, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm before the sum with the shortcut."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, 4 inner, h / stride, w / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    count: int,
    inputs: int,
    inner: int,
    stride: int,
    dilation: int,
) -> nn.Sequential:
    first = block(inputs, inner, stride, max(1, dilation // 2))
    rest = [block(inner * block.expansion, inner, 1, dilation) for _ in range(count - 1)]
    return nn.Sequential(first, *rest)


def _conv_bn_relu(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


Untyped: TypeAlias = Any  # a timm model: the package has no types
TIMM = "timm:"
V1C_WEIGHTS = {"resnet50": "resnet50c", "resnet101": "resnet101c"}  # timm's names of ImageNet's v1c weights


def build_backbone(name: str, *, output_stride: int = 8, pretrained: bool = False) -> Backbone:
    """A backbone by name.

    name: "resnet18", "resnet50", "resnet101" (ResNetV1c with dilations), or "timm:NAME" for any timm model that
    gives feature maps.
    output_stride: input pixels per cell of the last map: 8, 16 or 32. timm's models that cannot be dilated keep
    their own, see `reductions` of the result.
    pretrained: ImageNet's weights, from a hub; without it the start is random.

    Raises UserError for an unknown name, an impossible output stride, and weights that there are not or that
    cannot be fetched.
    """
    stage_rates(output_stride)
    if name.startswith(TIMM):
        return TimmBackbone(name.removeprefix(TIMM), output_stride=output_stride, pretrained=pretrained)
    if name not in RESNETS:
        raise UserError(f"backbone {name!r} is unknown; choose {', '.join(RESNETS)} or timm:NAME")
    backbone = ResNet(RESNETS[name], output_stride)
    if pretrained:
        if name not in V1C_WEIGHTS:
            raise UserError(
                f"{name}: there are no ImageNet weights with this stem; leave out pretrained, "
                f"or take {TIMM}{name}"
            )
        source = create_timm(V1C_WEIGHTS[name], pretrained=True)
        weights = from_timm(source.state_dict())
        load_weights(backbone, weights, f"{TIMM}{V1C_WEIGHTS[name]}", "update timm")
    return backbone


class TimmBackbone(Backbone):
    """Feature maps of a timm model."""

    def __init__(self, name: str, *, output_stride: int = 8, pretrained: bool = False) -> None:
        super().__init__()
        self.net = _dilated_timm(name, output_stride, pretrained)
        self.channels = tuple(self.net.feature_info.channels())
        self.reductions = tuple(self.net.feature_info.reduction())
        self._channels_last = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) -> maps, fine to coarse."""
        maps = self.net(images)
        return [x.permute(0, 3, 1, 2) for x in maps] if self._channels_last else list(maps)


def _dilated_timm(name: str, output_stride: int, pretrained: bool) -> Untyped:
    """With the output stride if the model takes one, else as it is."""
    options: dict[str, Any] = {"features_only": True}
    if output_stride != 32:
        try:  # models that cannot be dilated say so in many ways
            net = create_timm(name, output_stride=output_stride, **options)
        except (TypeError, ValueError, AssertionError, NotImplementedError, AttributeError):
            pass
        else:
            if not pretrained:
                return net
            options["output_stride"] = output_stride
    return create_timm(name, pretrained=pretrained, **options)


def at_hand(name: str) -> bool:
    """Whether ImageNet's weights of a timm model are on this machine, or their hub answers within seconds."""
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    config = timm.get_pretrained_cfg(name.removeprefix(TIMM))
    repository = getattr(config, "hf_hub_id", None)
    files = ("model.safetensors", "pytorch_model.bin")
    if repository and any(isinstance(try_to_load_from_cache(repository, file), str) for file in files):
        return True
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        with socket.create_connection((urlsplit(constants.ENDPOINT).hostname or "", 443), PATIENCE):
            return True
    except OSError:
        return False


def create_timm(name: str, *, pretrained: bool = False, **options: Any) -> Untyped:
    """`timm.create_model`, with one-line errors for names and weights that there are not."""
    import timm

    if not timm.is_model(name.split(".")[0]):
        close = timm.list_models(f"{name.split('.')[0]}*")[:3]
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists them"
        raise UserError(f"timm has no model {name!r}; {hint}")
    if not pretrained:
        return timm.create_model(name, pretrained=False, **options)
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # hubs fail in many ways
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(
            f"ImageNet weights of {name} cannot be fetched ({reason}); connect to the hub, or leave out pretrained"
        ) from error
