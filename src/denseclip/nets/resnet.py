"""ResNetV1c: a ResNet whose stem is three 3x3 convolutions, dilated where its strides are taken away.

Names of parameters are mmsegmentation's, so that the published MaskCLIP+ weights fit.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from denseclip.clip.model import stage_rates
from denseclip.nets.layers import Backbone, init_kaiming


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
