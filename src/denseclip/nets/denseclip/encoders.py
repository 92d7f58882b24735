"""DenseCLIP's backbones: CLIP's ResNet and ViT, or any timm model, as four maps and CLIP's two outputs g and z."""

from dataclasses import dataclass
from functools import partial
from math import log2
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from denseclip.clip.model import AttentionPool, ResNet, VisionTransformer
from denseclip.clip.transformer import DropPath, Grid, Positions, resize_positions, to_map
from denseclip.errors import UserError
from denseclip.nets.backbones import create_timm
from denseclip.nets.denseclip.config import DenseClipConfig
from denseclip.nets.denseclip.shapes import ResNetShape, Shapes, TimmShape, VitShape

HEAD_WIDTH = 64
Untyped: TypeAlias = Any  # a timm module: the package has no types


@dataclass(frozen=True)
class Encoded:
    """maps: four, fine to coarse. global_feature: g (B, D); dense_feature: z (B, D, h, w); both None without text."""

    maps: tuple[Tensor, ...]
    global_feature: Tensor | None = None
    dense_feature: Tensor | None = None


class Encoder(nn.Module):
    """A backbone.

    channels: of its maps. score_level: the map that has the size of z. new_parameters: how the names of parameters
    begin that no pretrained weights are loaded into.
    """

    channels: tuple[int, ...]
    score_level: int
    new_parameters: tuple[str, ...] = ()

    def forward(self, images: Tensor) -> Encoded:
        """Images (B, 3, H, W), normalized."""
        raise NotImplementedError


def make_encoder(shapes: Shapes, config: DenseClipConfig) -> Encoder:
    """A backbone with initial weights; with language it also gives g and z."""
    embed_dim = shapes.embed_dim if config.language else None
    if isinstance(shapes.backbone, TimmShape):
        return TimmEncoder(shapes.backbone, embed_dim, config)
    if isinstance(shapes.backbone, ResNetShape):
        return ResNetEncoder(shapes.backbone, embed_dim, config)
    return VitEncoder(shapes.backbone, embed_dim, config)


def positions_of(config: DenseClipConfig) -> Positions:
    """How DenseCLIP makes a position table for another grid."""
    return "bilinear" if config.positions == "interpolate" else "crop"


class ResNetEncoder(ResNet, Encoder):
    """Stem of three convolutions, four stages at strides 4 to 32, and with `embed_dim` the attention pool."""

    score_level = 3

    def __init__(self, shape: ResNetShape, embed_dim: int | None, config: DenseClipConfig) -> None:
        sizes: dict[str, Any] = {"heads": shape.heads, "grid": shape.grid, "positions": positions_of(config)}
        super().__init__(shape.layers, shape.width, embed_dim=embed_dim, **sizes)

    def forward(self, images: Tensor) -> Encoded:  # type: ignore[override]
        """Images (B, 3, H, W), sides of at least 32 -> maps of 4w, 8w, 16w, 32w channels, g and z."""
        maps = tuple(self.maps(images))
        return Encoded(maps) if self.attnpool is None else Encoded(maps, *self.attnpool(maps[-1]))


class VitEncoder(VisionTransformer, Encoder):
    """Patches, blocks, a pyramid from four of the blocks; with `embed_dim` also g and z from the last tokens."""

    new_parameters = ("fpn",)

    def __init__(self, shape: VitShape, embed_dim: int | None, config: DenseClipConfig) -> None:
        def drop_path(block: int) -> DropPath:
            rate = config.drop_path * block / max(1, shape.layers - 1)
            return DropPath(rate, by_position=config.official)

        super().__init__(
            patch=shape.patch,
            grid=shape.grid,
            width=shape.width,
            layers=shape.layers,
            heads=shape.heads,
            hidden=shape.hidden,
            embed_dim=embed_dim,
            quick_gelu=shape.quick_gelu,
            pool=shape.pool,
            norm_first=shape.norm_first,
            layer_scale=shape.layer_scale,
            drop_path=drop_path,
        )
        self.out_indices, self.twice = shape.out_indices, config.official
        self.channels = (shape.width,) * 4
        self.score_level = _level_of_patches(shape.patch)
        self.fpn1, self.fpn2, self.fpn3, self.fpn4 = (
            _resample(shape.width, self.score_level - i) for i in range(4)
        )
        self._table = partial(self._positions, positions_of(config))

    def forward(self, images: Tensor) -> Encoded:  # type: ignore[override]
        """Images (B, 3, H, W) -> maps of W channels at about strides 4, 8, 16, 32; g, z at the patches."""
        x, grid = self.embed(images, self._table)  # (B, 1 + hw, W)
        outputs = []
        for block in self.transformer.blocks:
            x = block(x)
            outputs.append(x)
        ops = (self.fpn1, self.fpn2, self.fpn3, self.fpn4)
        maps = tuple(op(to_map(outputs[i][:, 1:], grid)) for op, i in zip(ops, self.out_indices, strict=True))
        if self.proj is None:
            return Encoded(maps)
        x = self.project(x)  # (B, 1 + hw, D)
        whole = x[:, 0] if self.pool == "tok" else x[:, 1:].mean(dim=1)
        return Encoded(maps, whole, to_map(x[:, 1:], grid))

    def _positions(self, how: Positions, grid: Grid) -> Tensor:
        """The official code adds the class embedding a second time, with its position."""
        table = resize_positions(self.positional_embedding, grid, how)  # (1 + hw, W)
        return torch.cat([table[:1] + self.class_embedding, table[1:]]) if self.twice else table


class TimmEncoder(Encoder):
    """Four stages of a timm model; with `embed_dim` g and z from a new pool ("any-backbone", section 3.4)."""

    score_level = 3

    def __init__(self, shape: TimmShape, embed_dim: int | None, config: DenseClipConfig) -> None:
        super().__init__()
        self.trunk = _create_timm(shape.name, config.timm_pretrained)
        self.new_parameters = ("attnpool.",) if config.timm_pretrained else ("",)
        self.channels = tuple(self.trunk.feature_info.channels())
        strides = tuple(self.trunk.feature_info.reduction())
        if strides != (4, 8, 16, 32):
            raise UserError(
                f"timm:{shape.name} has maps at strides {strides}; take one with 4, 8, 16, 32, such as "
                "resnet50, swin_tiny_patch4_window7_224 or convnext_tiny"
            )
        last = self.channels[-1]
        heads = last // HEAD_WIDTH or 1
        if last % heads:
            raise UserError(
                f"timm:{shape.name} ends with {last} channels, which heads of {HEAD_WIDTH} do not divide; take "
                "another backbone, such as resnet50"
            )
        positions = positions_of(config)
        self.attnpool = AttentionPool(last, embed_dim, heads, shape.grid, positions) if embed_dim else None

    def forward(self, images: Tensor) -> Encoded:
        """Images (B, 3, H, W) -> maps at strides 4, 8, 16, 32, g and z."""
        found = zip(self.trunk(images), self.channels, strict=True)
        maps = tuple(
            x if x.shape[1] == c else x.permute(0, 3, 1, 2) for x, c in found
        )  # Swin has (B, h, w, C)
        return Encoded(maps) if self.attnpool is None else Encoded(maps, *self.attnpool(maps[-1]))


def _create_timm(name: str, pretrained: bool) -> Untyped:
    options: dict[str, Any] = {"strict_img_size": False} if name.startswith("swin") else {}
    options |= {"features_only": True, "out_indices": (-4, -3, -2, -1)}
    try:
        return create_timm(name, pretrained=pretrained, **options)
    except (RuntimeError, TypeError, AssertionError, IndexError) as error:  # each model in its own way
        raise UserError(
            f"timm:{name} gives no four feature maps ({' '.join(str(error).split())}); "
            "take another backbone, such as resnet50"
        ) from error


def _level_of_patches(patch: int) -> int:
    """The level (0..3 for strides 4..32) nearest to the stride of the patches."""
    return min(3, max(0, round(log2(patch)) - 2))


def _resample(width: int, doublings: int) -> nn.Module:
    """A group norm, then 2x2 transposed convolutions (norm and GELU between them), or max pooling.

    For patches of 8 and 16 these are the official layers and names.
    """
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
