"""DenseCLIP's backbones: CLIP's ResNet and ViT, or any timm model, as four maps and CLIP's two outputs g and z."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import isqrt, log2
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from denseclip.clip import Clip, TextTransformer
from denseclip.clip.model import AttentionPool, ResNet, VisionTransformer, to_map
from denseclip.clip.transformer import DropPath, Grid, LayerScale, Positions, resize_positions
from denseclip.errors import UserError
from denseclip.models.backbones import create_timm
from denseclip.models.config import DenseClipConfig


@dataclass(frozen=True)
class ResNetShape:
    """A CLIP ResNet. heads, grid: of its attention pool, whose position table has 1 + grid * grid rows."""

    layers: tuple[int, int, int, int]
    width: int
    heads: int
    grid: int


@dataclass(frozen=True)
class VitShape:
    """A CLIP ViT. hidden: width of the MLPs. out_indices: blocks (from 0) whose outputs become
    the four maps.

    norm_first: a norm before the first block. pool: the picture's own vector, "tok" (class token) or "avg".
    """

    patch: int
    width: int
    layers: int
    heads: int
    hidden: int
    grid: int
    out_indices: tuple[int, ...]
    quick_gelu: bool = True
    norm_first: bool = True
    layer_scale: bool = False
    pool: str = "tok"


@dataclass(frozen=True)
class TimmShape:
    """A timm backbone by name, with a new attention pool whose table has 1 + grid * grid rows."""

    name: str
    grid: int


@dataclass(frozen=True)
class TextShape:
    """A CLIP text transformer. rows: of its position table. end: id of the end token, None: the highest id."""

    width: int
    layers: int
    heads: int
    hidden: int
    rows: int
    vocabulary: int
    quick_gelu: bool = True
    layer_scale: bool = False
    end: int | None = None


BackboneShape = ResNetShape | VitShape | TimmShape
KINDS: dict[str, type[ResNetShape] | type[VitShape] | type[TimmShape]] = {
    "resnet": ResNetShape,
    "vit": VitShape,
    "timm": TimmShape,
}


@dataclass(frozen=True)
class Shapes:
    """All sizes: of the backbone, of the text encoder (None without language), of the joint space."""

    backbone: BackboneShape
    text: TextShape | None
    embed_dim: int

    @classmethod
    def of_clip(cls, clip: Clip, *, language: bool = True) -> "Shapes":
        """The sizes of a CLIP; UserError for text towers that contexts cannot be put into."""
        tower = clip.visual
        backbone = _resnet(tower) if isinstance(tower, ResNet) else _vit(tower)
        return cls(backbone, _text(clip.text, clip.name) if language else None, clip.embed_dim)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints."""
        kind = next(name for name, shape in KINDS.items() if isinstance(self.backbone, shape))
        text = None if self.text is None else asdict(self.text)
        return {
            "backbone": {"kind": kind, **asdict(self.backbone)},
            "text": text,
            "embed_dim": self.embed_dim,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Shapes":
        """The inverse of `to_dict`."""
        backbone: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values["backbone"].items()
        }
        shape = KINDS[backbone.pop("kind")](**backbone)
        text = None if values["text"] is None else TextShape(**values["text"])
        return cls(shape, text, values["embed_dim"])


def default_out_indices(layers: int) -> tuple[int, ...]:
    """Blocks 3, 5, 7, 11 of twelve, and in the same proportion of any other number."""
    return tuple(max(1, round(layers * part / 12)) - 1 for part in (4, 6, 8, 12))


def _resnet(tower: ResNet) -> ResNetShape:
    first, second, third, fourth = tower.layers
    return ResNetShape(
        (first, second, third, fourth), tower.width, heads=tower.pool.heads, grid=tower.grid[0]
    )


def _vit(tower: VisionTransformer) -> VitShape:
    blocks = tower.transformer.blocks
    return VitShape(
        patch=tower.patch_size,
        width=tower.width,
        layers=len(blocks),
        heads=tower.heads,
        hidden=blocks[0].mlp.c_fc.out_features,
        grid=tower.grid[0],
        out_indices=default_out_indices(len(blocks)),
        quick_gelu=tower.quick_gelu,
        norm_first=isinstance(tower.ln_pre, nn.LayerNorm),
        layer_scale=isinstance(blocks[0].ls_1, LayerScale),
        pool=tower.pool,
    )


def _text(tower: TextTransformer, name: str) -> TextShape:
    if not tower.causal or tower.pool not in ("argmax", "eos"):
        raise UserError(
            f"{name}: its text tower is not CLIP's (read at the end, each token sees those before it), so contexts "
            "cannot be learned for it; take another CLIP, such as RN50 or ViT-B-16"
        )
    blocks = tower.transformer.blocks
    return TextShape(
        width=tower.width,
        layers=len(blocks),
        heads=tower.heads,
        hidden=blocks[0].mlp.c_fc.out_features,
        rows=tower.context_length,
        vocabulary=tower.token_embedding.num_embeddings,
        quick_gelu=tower.quick_gelu,
        layer_scale=isinstance(blocks[0].ls_1, LayerScale),
        end=tower.eos if tower.pool == "eos" else None,
    )


@dataclass(frozen=True)
class Heads:
    """What no tensor's shape tells: attention heads. None: 64 channels each, as in every released CLIP."""

    pool: int = 32  # whatever the width: the official code has it so
    vit: int | None = None
    text: int | None = None
    decoder: int = 4


def infer_shapes(state: Mapping[str, Tensor], heads: Heads | None = None) -> Shapes:
    """The sizes of a model in the official naming (`backbone.`, `text_encoder.`); only shapes are looked at.

    Raises KeyError for a missing tensor.
    """
    heads = heads or Heads()
    language = "text_encoder.token_embedding.weight" in state
    is_vit = "backbone.class_embedding" in state
    backbone = _vit_in(state, heads) if is_vit else _resnet_in(state, heads)
    text = _text_in(state, heads) if language else None
    embed_dim = state["text_encoder.text_projection"].shape[1] if language else 0
    return Shapes(backbone, text, embed_dim)


def _resnet_in(state: Mapping[str, Tensor], heads: Heads) -> ResNetShape:
    table = state.get("backbone.attnpool.positional_embedding")
    return ResNetShape(
        layers=_stages(state, "backbone."),
        width=state["backbone.conv3.weight"].shape[0],
        heads=heads.pool,
        grid=1 if table is None else isqrt(len(table) - 1),
    )


def _vit_in(state: Mapping[str, Tensor], heads: Heads) -> VitShape:
    width, _, _, patch = state["backbone.conv1.weight"].shape
    layers = _count(state, "backbone.transformer.resblocks.")
    return VitShape(
        patch=patch,
        width=width,
        layers=layers,
        heads=heads.vit or width // 64,
        hidden=len(state["backbone.transformer.resblocks.0.mlp.c_fc.bias"]),
        grid=isqrt(len(state["backbone.positional_embedding"]) - 1),
        out_indices=default_out_indices(layers),
    )


def _text_in(state: Mapping[str, Tensor], heads: Heads) -> TextShape:
    rows, width = state["text_encoder.positional_embedding"].shape
    return TextShape(
        width=width,
        layers=_count(state, "text_encoder.transformer.resblocks."),
        heads=heads.text or width // 64,
        hidden=len(state["text_encoder.transformer.resblocks.0.mlp.c_fc.bias"]),
        rows=rows,
        vocabulary=len(state["text_encoder.token_embedding.weight"]),
    )


def _stages(state: Mapping[str, Tensor], prefix: str) -> tuple[int, int, int, int]:
    first, second, third, fourth = (_count(state, f"{prefix}layer{stage}.") for stage in (1, 2, 3, 4))
    return first, second, third, fourth


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def with_resolution(shapes: Shapes, resolution: int | None) -> Shapes:
    """The same with a position table for pictures of `resolution` pixels."""
    if resolution is None:
        return shapes
    cell = shapes.backbone.patch if isinstance(shapes.backbone, VitShape) else 32
    if resolution < cell:
        raise UserError(
            f"resolution {resolution} is less than one cell of {cell} pixels; give the training crop"
        )
    return replace(shapes, backbone=replace(shapes.backbone, grid=resolution // cell))


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
        self.out_indices, self.twice = config.out_indices or shape.out_indices, config.official
        if not 0 <= self.out_indices[0] <= self.out_indices[-1] < shape.layers:
            raise UserError(
                f"out_indices {list(self.out_indices)} do not fit a ViT of {shape.layers} blocks; "
                f"give numbers from 0 to {shape.layers - 1}"
            )
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
