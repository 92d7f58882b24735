"""DenseCLIP's context decoder, and the semantic FPN."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Attention with separate projections, no bias but on the output."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Queries (B, N, W), memory (B, M, W) -> (B, N, W)."""
        q, k, v = (
            self._heads(self.q_proj(x)),
            self._heads(self.k_proj(memory)),
            self._heads(self.v_proj(memory)),
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B, N, W)
        return self.proj_drop(self.proj(y))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, W / heads)


class DecoderLayer(nn.Module):
    """Pre-norm: attention among the words, attention to the picture, MLP."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = CrossAttention(width, heads, dropout)
        self.cross_attn = CrossAttention(width, heads, dropout)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Words (B, N, W), picture (B, M, W) -> (B, N, W)."""
        y = self.norm1(x)
        x = x + self.self_attn(y, y)
        x = x + self.cross_attn(self.norm2(x), memory)
        return x + self.dropout(self.mlp(self.norm3(x)))


class ContextDecoder(nn.Module):
    """A small transformer decoder over [g; z] (section 3.3, equations 3 and 4).

    visual_dim: of the picture's tokens. text_dim: of what asks and of what is answered.
    """

    def __init__(
        self, visual_dim: int, text_dim: int, *, width: int, heads: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.memory_proj = nn.Sequential(
            nn.LayerNorm(visual_dim), nn.Linear(visual_dim, width), nn.LayerNorm(width)
        )
        self.text_proj = nn.Sequential(nn.LayerNorm(text_dim), nn.Linear(text_dim, width))
        self.decoder = nn.ModuleList([DecoderLayer(width, heads, dropout) for _ in range(layers)])
        self.out_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, text_dim))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, text: Tensor, visual: Tensor) -> Tensor:
        """Text (B, N, text_dim), picture (B, M, visual_dim) -> (B, N, text_dim)."""
        memory = self.memory_proj(visual)  # (B, M, W)
        x = self.text_proj(text)  # (B, N, W)
        for layer in self.decoder:
            x = layer(x, memory)
        return self.out_proj(x)


Extra = Literal["convolutions", "subsample"]


class Fpn(nn.Module):
    """1x1 laterals, nearest upsampling top-down, 3x3 outputs; with bias, without norm or activation.

    in_channels: of all incoming maps. start: the first one used. outputs: of which those beyond the incoming maps
    are 3x3 stride-2 convolutions, the first on the last incoming map (RetinaNet), or every second cell of the last
    output (Mask R-CNN). activation: ReLU between those convolutions, which the papers do not have.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        start: int = 0,
        outputs: int | None = None,
        extra: Extra = "convolutions",
        activation: bool = False,
    ) -> None:
        super().__init__()
        self.activation = activation
        used = in_channels[start:]
        self.start = start
        self.extra = 0 if outputs is None else outputs - len(used)
        assert self.extra >= 0
        self.lateral_convs = nn.ModuleList([convolution(c, channels, 1) for c in used])
        self.fpn_convs = nn.ModuleList([convolution(channels, channels, 3) for _ in used])
        if extra == "convolutions":
            sources = [in_channels[-1], *[channels] * self.extra][: self.extra]
            self.fpn_convs.extend(convolution(c, channels, 3, stride=2) for c in sources)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps fine to coarse, any sizes -> `channels` channels each, and the extra coarser ones."""
        used = maps[self.start :]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, used, strict=True)]
        for i in range(len(laterals) - 1, 0, -1):
            coarse = F.interpolate(laterals[i], laterals[i - 1].shape[2:], mode="nearest")
            laterals[i - 1] = laterals[i - 1] + coarse
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=False)]
        x = used[-1]
        for i in range(self.extra):
            further = len(self.fpn_convs) > len(laterals)
            x = F.relu(x) if i and self.activation else x
            x = _coarser(self.fpn_convs[len(laterals) + i], x) if further else outputs[-1][..., ::2, ::2]
            outputs.append(x)
        return tuple(outputs)


def _coarser(conv: nn.Module, x: Tensor) -> Tensor:
    """In float32 on CPUs: oneDNN leaves part of a bf16 strided convolution's gradient unset on a map of one cell."""
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return conv(x)
    with torch.autocast("cpu", enabled=False):
        return conv(x.float())


class SemanticFpnHead(nn.Module):
    """Every level to stride 4 by convolutions with doublings between them, summed, classified."""

    def __init__(self, channels: int, classes: int, *, levels: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.scale_heads = nn.ModuleList([_branch(channels, level) for level in range(levels)])
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, ...) at strides 4, 8, 16, 32 -> logits (B, K, H / 4, W / 4)."""
        first, *rest = [branch(x) for branch, x in zip(self.scale_heads, maps, strict=True)]
        for x in rest:
            first = first + resize(x, (first.shape[2], first.shape[3]))
        return self.conv_seg(self.dropout(first))


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, align_corners=False; itself where the size is right, which an export must not ask."""
    if not torch.compiler.is_exporting() and (x.shape[2], x.shape[3]) == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def convolution(
    channels: int, out: int, kernel: int, *, stride: int = 1, norm: bool = False
) -> nn.Sequential:
    """A convolution `conv`; with `norm` a batch norm `bn` in place of its bias, and ReLU."""
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=not norm)
    start_convolution(conv)
    after = [("bn", nn.BatchNorm2d(out)), ("relu", nn.ReLU())] if norm else []
    return nn.Sequential(OrderedDict([("conv", conv), *after]))


def start_convolution(conv: nn.Conv2d) -> None:
    """He's start by the outputs, and no bias."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def _branch(channels: int, level: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(max(1, level)):
        layers.append(convolution(channels, channels, 3, norm=True))
        if level:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)
