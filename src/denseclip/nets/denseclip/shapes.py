"""The sizes of a DenseCLIP that follow from CLIP's weights, or from those of a checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import isqrt
from typing import Any

from torch import Tensor, nn

from denseclip.clip import Clip, ResNet, TextTransformer, VisionTransformer
from denseclip.clip.transformer import LayerScale
from denseclip.errors import UserError


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
