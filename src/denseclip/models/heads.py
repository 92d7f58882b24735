"""Decode heads of MaskCLIP+ (spec section d.1): from a backbone's maps to features in CLIP's space.

Names of parameters are mmsegmentation's. All heads end in ReLU, so their features are not negative.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from denseclip.errors import UserError
from denseclip.models.backbones import ConvModule, RegionMean, SeparableConvModule, init_kaiming, resize_like

HeadKind = Literal["aspp_v2", "deeplabv3plus", "psp"]
Cut: TypeAlias = tuple[slice, slice]  # rows, columns


class Head(nn.Module):
    """Maps of a backbone, fine to coarse -> features (B, `channels`, h, w)."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_i, h_i, w_i) -> (B, channels, h, w) at the size that the head works in."""
        raise NotImplementedError


class WideConv2d(nn.Conv2d):
    """A 3x3 convolution of large dilation, on a CPU as nine matrix products.

    Each tap is multiplied only where it lies inside the map: oneDNN's bf16 kernels are 4 to 20 times slower here.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h, w)."""
        if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
            return super().forward(x)
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x, weight = x.to(dtype), weight.to(dtype)
        out: Tensor = _Taps.apply(x, weight, self.dilation[0])
        return out


class _Taps(torch.autograd.Function):
    """The sum over nine shifts; partial sums are float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:  # noqa: ANN401
        """x: (B, C, h, w). weight: (D, C, 3, 3)."""
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        rows = x.permute(0, 2, 3, 1)  # (B, h, w, C)
        out = rows.new_zeros(*rows.shape[:3], len(weight), dtype=torch.promote_types(x.dtype, torch.float32))
        for tap, there, here in _shifts(rows.shape[1], rows.shape[2], dilation):
            part = rows[:, there[0], there[1]]  # (B, h', w', C)
            out[:, here[0], here[1]] += (part.flatten(0, 2) @ weight[:, :, *tap].T).view(*part.shape[:3], -1)
        return out.to(x.dtype).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        """outer: (B, D, h, w)."""
        x, weight = ctx.saved_tensors
        rows, outer = x.permute(0, 2, 3, 1), outer.permute(0, 2, 3, 1)  # (B, h, w, C), (B, h, w, D)
        of_x = rows.new_zeros(rows.shape, dtype=torch.promote_types(x.dtype, torch.float32))
        of_weight = weight.new_zeros(3, 3, *weight.shape[:2])  # (3, 3, D, C)
        for tap, there, here in _shifts(rows.shape[1], rows.shape[2], ctx.dilation):
            part, back = rows[:, there[0], there[1]], outer[:, here[0], here[1]].flatten(0, 2)
            of_x[:, there[0], there[1]] += (back @ weight[:, :, *tap]).view(*part.shape)
            of_weight[tap] = back.T @ part.flatten(0, 2)
        return of_x.to(x.dtype).permute(0, 3, 1, 2), of_weight.permute(2, 3, 0, 1), None


def _shifts(height: int, width: int, dilation: int) -> Iterator[tuple[tuple[int, int], Cut, Cut]]:
    """Taps that reach into the map: their place in the kernel, what they read, and what they add to."""
    steps = [step for step in (-1, 0, 1) if abs(step) * dilation < height]
    for down in steps:
        for across in (step for step in (-1, 0, 1) if abs(step) * dilation < width):
            (top, bottom), (left, right) = (
                _overlap(height, down * dilation),
                _overlap(width, across * dilation),
            )
            yield (down + 1, across + 1), (top, left), (bottom, right)


def _overlap(length: int, shift: int) -> tuple[slice, slice]:
    """Lines that a tap reads, and lines that it adds to."""
    return slice(max(0, shift), min(length, length + shift)), slice(
        max(0, -shift), min(length, length - shift)
    )


class ASPPHeadV2(Head):
    """The paper's DeepLabV2: parallel dilated 3x3 convolutions, each with batch norm and ReLU, summed."""

    def __init__(self, inputs: int, channels: int, dilations: Sequence[int] = (6, 12, 18, 24)) -> None:
        super().__init__()
        self.aspp_modules = nn.ModuleList(
            ConvModule(inputs, channels, 3, dilation=d, convolution=WideConv2d) for d in dilations
        )
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
    dilations: the first is the 1x1 branch. In training a batch of one picture cannot be normalized in the
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

    In training a batch of one picture cannot be normalized in the branch of one region: torch refuses it.
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
