"""CLIP's vision transformer with a feature pyramid from four of its blocks."""

from math import log2

import torch
from torch import Tensor, nn

from denseclip.nets.denseclip.blocks import Block, DropPath, Transformer
from denseclip.nets.denseclip.config import DenseClipConfig
from denseclip.nets.denseclip.positions import table_for
from denseclip.nets.denseclip.shapes import VitShape
from denseclip.nets.denseclip.trunk import Trunk, TrunkOutput


class VitTrunk(Trunk):
    """Patches, blocks, pyramid; with `embed_dim` also g and z from the last block's projected tokens."""

    fresh = ("fpn",)

    def __init__(self, shape: VitShape, embed_dim: int | None, config: DenseClipConfig) -> None:
        super().__init__()
        width = shape.width
        self.taps, self.pool = shape.taps, shape.pool
        self.positions, self.twice = config.positions, config.official
        self.channels = (width,) * 4
        self.conv1 = nn.Conv2d(3, width, shape.patch, shape.patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positional_embedding = nn.Parameter(torch.randn(1 + shape.grid**2, width) * width**-0.5)
        self.ln_pre = nn.LayerNorm(width) if shape.norm_first else nn.Identity()
        self.transformer = Transformer(_blocks(shape, config))
        self.fpn1, self.fpn2, self.fpn3, self.fpn4 = _pyramid(width, shape.patch)
        self.score_level = _level_of_patches(shape.patch)
        self.proj: nn.Parameter | None = None
        if embed_dim:
            self.ln_post = nn.LayerNorm(width)
            self.proj = nn.Parameter(torch.randn(width, embed_dim) * width**-0.5)

    def forward(self, images: Tensor) -> TrunkOutput:
        """Images (B, 3, H, W) -> maps of W channels at about strides 4, 8, 16, 32; g, z at the patches."""
        x = self.conv1(images)  # (B, W, h, w)
        size = (x.shape[2], x.shape[3])
        x = self.ln_pre(self._with_positions(x.flatten(2).transpose(1, 2), size))  # (B, 1 + hw, W)
        tapped = []
        for block in self.transformer.resblocks:
            x = block(x)
            tapped.append(x)
        ops = (self.fpn1, self.fpn2, self.fpn3, self.fpn4)
        maps = tuple(op(_to_map(tapped[i][:, 1:], size)) for op, i in zip(ops, self.taps, strict=True))
        if self.proj is None:
            return TrunkOutput(maps)
        x = self.ln_post(x) @ self.proj.to(x.dtype)  # (B, 1 + hw, D)
        whole = x[:, 0] if self.pool == "tok" else x[:, 1:].mean(dim=1)
        return TrunkOutput(maps, whole, _to_map(x[:, 1:], size))

    def _with_positions(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        first = self.class_embedding.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
        table = table_for(self.positional_embedding, size, self.positions)  # (1 + hw, W)
        if self.twice:
            table = torch.cat([table[:1] + self.class_embedding, table[1:]])
        return torch.cat([first, tokens], dim=1) + table.to(tokens.dtype)


def _blocks(shape: VitShape, config: DenseClipConfig) -> list[Block]:
    rates = [config.drop_path * i / max(1, shape.layers - 1) for i in range(shape.layers)]
    return [
        Block(
            shape.width,
            shape.heads,
            shape.hidden,
            quick_gelu=shape.quick_gelu,
            layer_scale=shape.layer_scale,
            drop_path=DropPath(rate, by_position=config.official),
        )
        for rate in rates
    ]


def _level_of_patches(patch: int) -> int:
    """The level (0..3 for strides 4..32) nearest to the stride of the patches."""
    return min(3, max(0, round(log2(patch)) - 2))


def _pyramid(width: int, patch: int) -> list[nn.Module]:
    """One norm and resampling for each level; for patches of 8 and 16 the official layers and names."""
    level = _level_of_patches(patch)
    return [_resample(width, level - i) for i in range(4)]


def _resample(width: int, doublings: int) -> nn.Module:
    """A group norm, then 2x2 transposed convolutions (norm and GELU between them), or max pooling."""
    norm = nn.GroupNorm(1, width)
    if doublings == 0:
        return norm
    if doublings < 0:
        return nn.Sequential(norm, nn.MaxPool2d(2**-doublings))
    layers: list[nn.Module] = [norm]
    for i in range(doublings):
        layers += [nn.BatchNorm2d(width), nn.GELU()] if i else []
        layers.append(nn.ConvTranspose2d(width, width, 2, 2))
    return nn.Sequential(*layers)


def _to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, size)  # (B, hw, C) -> (B, C, h, w)
