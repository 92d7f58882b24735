"""Small parts that the networks share, with mmsegmentation's parameter names."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Backbone(nn.Module):
    """A feature extractor: images (B, 3, H, W) -> maps, fine to coarse.

    `channels` and `reductions` (input pixels per cell) have one entry a map.
    """

    channels: tuple[int, ...]
    reductions: tuple[int, ...]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W), normalised -> maps (B, channels[i], H / reductions[i], W / reductions[i])."""
        raise NotImplementedError


class ConvModule(nn.Module):
    """Convolution without bias, batch norm, ReLU; the size is kept."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, *, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(
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
