"""Decode heads of MaskCLIP+ (spec section d.1): from a backbone's maps to features in CLIP's space.

Names of parameters are mmsegmentation's. All heads end in ReLU, so their features are not negative.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from denseclip.errors import UserError
from denseclip.models.backbones import ConvModule, RegionMean, SeparableConvModule, init_kaiming, resize_like

HeadKind = Literal["aspp_v2", "deeplabv3plus", "psp"]


class Head(nn.Module):
    """Maps of a backbone, fine to coarse -> features (B, `channels`, h, w)."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_i, h_i, w_i) -> (B, channels, h, w) at the size that the head works in."""
        raise NotImplementedError


class ASPPHeadV2(Head):
    """The paper's DeepLabV2: parallel dilated 3x3 convolutions, each with batch norm and ReLU, summed."""

    def __init__(self, inputs: int, channels: int, dilations: Sequence[int] = (6, 12, 18, 24)) -> None:
        super().__init__()
        self.aspp_modules = nn.ModuleList(ConvModule(inputs, channels, 3, dilation=d) for d in dilations)
        init_kaiming(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, of which the last is read -> (B, channels, h, w) at its size."""
        x = maps[-1]
        total = self.aspp_modules[0](x)
        for branch in self.aspp_modules[1:]:
            total = total + branch(x)
        return total


class DepthwiseSeparableASPPHead(Head):
    """DeepLabV3+ (Chen et al., 2018): ASPP with an image-level branch, refined at the finest map's size.

    inputs, fine_inputs: channels of the last map and of the fine one. fine: which map is the fine one.
    dilations: the first is the 1x1 branch. In training a batch of one picture cannot be normalised in the
    image-level branch: torch refuses it.
    """

    def __init__(
        self,
        inputs: int,
        fine_inputs: int,
        channels: int,
        *,
        fine: int = 0,
        fine_channels: int = 48,
        dilations: Sequence[int] = (1, 12, 24, 36),
    ) -> None:
        super().__init__()
        self.fine = fine
        self.image_pool = nn.Sequential(RegionMean(1), ConvModule(inputs, channels))
        self.aspp_modules = nn.ModuleList(
            ConvModule(inputs, channels)
            if dilation == 1
            else SeparableConvModule(inputs, channels, dilation=dilation)
            for dilation in dilations
        )
        self.bottleneck = ConvModule((1 + len(dilations)) * channels, channels, 3)
        self.c1_bottleneck = ConvModule(fine_inputs, fine_channels)
        self.sep_bottleneck = nn.Sequential(
            SeparableConvModule(channels + fine_channels, channels),
            SeparableConvModule(channels, channels),
        )
        init_kaiming(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, of which the fine and the last are read -> (B, channels, h, w) at the fine one's size."""
        x = maps[-1]
        pooled = self.image_pool(x).expand(-1, -1, *x.shape[-2:])  # as a bilinear resize of one cell
        x = self.bottleneck(torch.cat([pooled, *(branch(x) for branch in self.aspp_modules)], dim=1))
        fine = self.c1_bottleneck(maps[self.fine])  # (B, fine_channels, h, w)
        return self.sep_bottleneck(torch.cat([resize_like(x, fine), fine], dim=1))


class PSPHead(Head):
    """PSPNet (Zhao et al., 2017): means over regions of several sizes beside the map itself.

    In training a batch of one picture cannot be normalised in the branch of one region: torch refuses it.
    """

    def __init__(self, inputs: int, channels: int, regions: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.psp_modules = nn.ModuleList(
            nn.Sequential(RegionMean(side), ConvModule(inputs, channels)) for side in regions
        )
        self.bottleneck = ConvModule(inputs + len(regions) * channels, channels, 3)
        init_kaiming(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, of which the last is read -> (B, channels, h, w) at its size."""
        x = maps[-1]
        means = [resize_like(branch(x), x) for branch in self.psp_modules]
        return self.bottleneck(torch.cat([x, *means], dim=1))


def build_head(
    kind: str, channels: Sequence[int], reductions: Sequence[int], outputs: int, *, fine_channels: int = 48
) -> Head:
    """A head for a backbone with these `channels` and `reductions`, of features with `outputs` channels.

    The fine map of DeepLabV3+ is the first at stride 4 or coarser. Raises UserError for an unknown kind.
    """
    if kind == "aspp_v2":
        return ASPPHeadV2(channels[-1], outputs)
    if kind == "psp":
        return PSPHead(channels[-1], outputs)
    if kind == "deeplabv3plus":
        fine = next((i for i, reduction in enumerate(reductions) if reduction >= 4), len(reductions) - 1)
        return DepthwiseSeparableASPPHead(
            channels[-1], channels[fine], outputs, fine=fine, fine_channels=fine_channels
        )
    raise UserError(f"head {kind!r} is unknown; choose one of {', '.join(get_args(HeadKind))}")
