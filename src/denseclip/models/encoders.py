"""DenseCLIP's backbones: CLIP's ResNet and ViT, or any timm model, as four maps and CLIP's two outputs g and z."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import log2
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from denseclip.clip import Clip
from denseclip.clip.build import is_resnet, resnet_sizes, vit_sizes
from denseclip.clip.config import Config, infer_text, infer_vision
from denseclip.clip.towers import AttentionPool, ResNet, VisionTransformer, to_map
from denseclip.clip.transformer import DropPath, Grid, Positions, resize_positions
from denseclip.errors import UserError
from denseclip.models.backbones import create_timm
from denseclip.models.config import DenseClipConfig


@dataclass(frozen=True)
class Shapes:
    """All sizes, in open_clip's form.

    vision: a `vision_cfg`; of a timm backbone "timm_model_name", and the "image_size" of its new attention pool.
    text: a `text_cfg`, None without language. embed_dim: of the joint space.
    """

    vision: Config
    text: Config | None
    embed_dim: int
    quick_gelu: bool = True

    @classmethod
    def of_clip(cls, clip: Clip, *, language: bool = True) -> "Shapes":
        """The sizes of a CLIP; UserError for text towers that contexts cannot be put into."""
        if language and (not clip.text.causal or clip.text.pool not in ("argmax", "eos")):
            raise UserError(
                f"{clip.name}: its text tower is not CLIP's (read at the end, each token sees those before it), so "
                "contexts cannot be learned for it; take another CLIP, such as RN50 or ViT-B-16"
            )
        text = clip.config["text_cfg"] if language else None
        return cls(clip.config["vision_cfg"], text, clip.embed_dim, clip.quick_gelu)

    @property
    def timm(self) -> str | None:
        """The name of a timm backbone."""
        return self.vision.get("timm_model_name")

    @property
    def is_vit(self) -> bool:
        """Whether the backbone is a CLIP ViT."""
        return self.timm is None and not is_resnet(self.vision)

    @property
    def cell(self) -> int:
        """Pixels per cell of the position table."""
        return self.vision.get("patch_size", 16) if self.is_vit else 32

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Shapes":
        """The inverse of `to_dict`."""
        if "vision" not in values:
            raise UserError("this checkpoint is of an earlier version of denseclip; train again")
        return cls(**values)

    def with_resolution(self, resolution: int | None) -> "Shapes":
        """The same with a position table for pictures of `resolution` pixels."""
        if resolution is None:
            return self
        if resolution < self.cell:
            raise UserError(
                f"resolution {resolution} is less than one cell of {self.cell} pixels; give the training crop"
            )
        return replace(self, vision={**self.vision, "image_size": resolution})


def default_out_indices(layers: int) -> tuple[int, ...]:
    """Blocks 3, 5, 7, 11 of twelve, and in the same proportion of any other number."""
    return tuple(max(1, round(layers * part / 12)) - 1 for part in (4, 6, 8, 12))


POOL_TABLE = "visual.attnpool.positional_embedding"


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
    known: dict[str, tuple[int, ...]] = {POOL_TABLE: (2,)}  # a baseline has no pool
    parts = {"backbone.": "visual.", "text_encoder.": "text."}
    for name, tensor in state.items():
        for theirs, ours in parts.items():
            if name.startswith(theirs):
                known[ours + name.removeprefix(theirs)] = tuple(tensor.shape)
    try:
        vision = infer_vision(known)
        width, vit = vision["width"], not is_resnet(vision)
        count = (heads.vit or max(1, width // 64)) if vit else heads.pool
        vision["head_width"] = width * (1 if vit else 32) // count
        if "text.token_embedding.weight" not in known:
            return Shapes(vision, None, 0)
        text = infer_text(known)
        text["heads"] = heads.text or text["heads"]
        return Shapes(vision, text, known["text.text_projection"][1])
    except KeyError as error:
        official = {ours: theirs for theirs, ours in parts.items()}
        prefix, _, rest = str(error.args[0]).partition(".")
        raise KeyError(official[f"{prefix}."] + rest) from None


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
    kind = TimmEncoder if shapes.timm else VitEncoder if shapes.is_vit else ResNetEncoder
    return kind(shapes, shapes.embed_dim if config.language else None, config)


def positions_of(config: DenseClipConfig) -> Positions:
    """How DenseCLIP makes a position table for another grid."""
    return "bilinear" if config.positions == "interpolate" else "crop"


class ResNetEncoder(ResNet, Encoder):
    """Stem of three convolutions, four stages at strides 4 to 32, and with `embed_dim` the attention pool."""

    score_level = 3

    def __init__(self, shapes: Shapes, embed_dim: int | None, config: DenseClipConfig) -> None:
        sizes = resnet_sizes(shapes.vision)
        super().__init__(**sizes, embed_dim=embed_dim, positions=positions_of(config))

    def forward(self, images: Tensor) -> Encoded:  # type: ignore[override]
        """Images (B, 3, H, W), sides of at least 32 -> maps of 4w, 8w, 16w, 32w channels, g and z."""
        maps = tuple(self.maps(images))
        return Encoded(maps) if self.attnpool is None else Encoded(maps, *self.attnpool(maps[-1]))


class VitEncoder(VisionTransformer, Encoder):
    """Patches, blocks, a pyramid from four of the blocks; with `embed_dim` also g and z from the last tokens."""

    new_parameters = ("fpn",)

    def __init__(self, shapes: Shapes, embed_dim: int | None, config: DenseClipConfig) -> None:
        sizes = vit_sizes(shapes.vision, shapes.quick_gelu)
        layers, width = sizes["layers"], sizes["width"]

        def drop_path(block: int) -> DropPath:
            return DropPath(config.drop_path * block / max(1, layers - 1), by_position=config.official)

        super().__init__(**sizes, embed_dim=embed_dim, drop_path=drop_path)
        self.out_indices, self.twice = config.out_indices or default_out_indices(layers), config.official
        if not 0 <= self.out_indices[0] <= self.out_indices[-1] < layers:
            raise UserError(
                f"out_indices {list(self.out_indices)} do not fit a ViT of {layers} blocks; "
                f"give numbers from 0 to {layers - 1}"
            )
        self.channels = (width,) * 4
        self.score_level = _level_of_patches(sizes["patch"])
        self.fpn1, self.fpn2, self.fpn3, self.fpn4 = (
            _resample(width, self.score_level - i) for i in range(4)
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

    def __init__(self, shapes: Shapes, embed_dim: int | None, config: DenseClipConfig) -> None:
        super().__init__()
        name, grid = shapes.vision["timm_model_name"], shapes.vision["image_size"] // 32
        self.trunk = _create_timm(name, config.timm_pretrained)
        self.new_parameters = ("attnpool.",) if config.timm_pretrained else ("",)
        self.channels = tuple(self.trunk.feature_info.channels())
        strides = tuple(self.trunk.feature_info.reduction())
        if strides != (4, 8, 16, 32):
            raise UserError(
                f"timm:{name} has maps at strides {strides}; take one with 4, 8, 16, 32, such as "
                "resnet50, swin_tiny_patch4_window7_224 or convnext_tiny"
            )
        last = self.channels[-1]
        heads = last // HEAD_WIDTH or 1
        if last % heads:
            raise UserError(
                f"timm:{name} ends with {last} channels, which heads of {HEAD_WIDTH} do not divide; take "
                "another backbone, such as resnet50"
            )
        positions = positions_of(config)
        self.attnpool = AttentionPool(last, embed_dim, heads, grid, positions) if embed_dim else None

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
