"""CLIP's towers as plain pieces. The one module that touches the internals of open_clip.

The towers are open_clip's modules; what other parts need (weights of the last block, of the attention pool,
of the position table) is handed out as named tensors, so that they write their own arithmetic and never
depend on open_clip's layout. tests/clip/test_towers.py rebuilds both towers from these pieces.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from denseclip.errors import UserError

Untyped: TypeAlias = Any  # an open_clip module: the package has no types


@dataclass(frozen=True)
class NormWeights:
    """A layer norm over the last axis, of width W: `weight` (W,), `bias` (W,), `eps`."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise `x` (..., W)."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class BlockWeights:
    """One pre-norm transformer block of width W and MLP width M (4 W unless the weights say otherwise).

    x <- x + ls_1 * out(attention(in_proj(ln_1 x))); x <- x + ls_2 * proj(gelu(fc(ln_2 x))).
    `in_proj_*` stacks query, key and value in this order. `ls_1`, `ls_2` (W,) are None without layer scale.
    """

    ln_1: NormWeights
    in_proj_weight: Tensor  # (3W, W)
    in_proj_bias: Tensor  # (3W,)
    out_weight: Tensor  # (W, W)
    out_bias: Tensor  # (W,)
    ln_2: NormWeights
    fc_weight: Tensor  # (M, W)
    fc_bias: Tensor  # (M,)
    proj_weight: Tensor  # (W, M)
    proj_bias: Tensor  # (W,)
    ls_1: Tensor | None = None
    ls_2: Tensor | None = None


@dataclass(frozen=True)
class AttentionPoolWeights:
    """The attention pool of a CLIP ResNet with C = 32 * width channels, a g x g grid and `heads` heads."""

    q_weight: Tensor  # (C, C)
    q_bias: Tensor  # (C,)
    k_weight: Tensor  # (C, C)
    k_bias: Tensor  # (C,)
    v_weight: Tensor  # (C, C)
    v_bias: Tensor  # (C,)
    c_weight: Tensor  # (D, C)
    c_bias: Tensor  # (D,)
    positional_embedding: Tensor  # (1 + g*g, C), row 0 for the mean token
    heads: int


class ResNetTower(nn.Module):
    """CLIP's modified ResNet: stem of three, average-pooled strides, attention pool; output stride 32."""

    kind = "ResNet"
    visual: Untyped

    def __init__(self, visual: Untyped) -> None:
        super().__init__()
        self.visual = visual.to(memory_format=torch.channels_last)

    @property
    def pool(self) -> AttentionPoolWeights:
        """The weights of the attention pool."""
        pool = self.visual.attnpool
        linear = {
            f"{k}_{part}": getattr(getattr(pool, f"{k}_proj"), part)
            for k in "qkvc"
            for part in ("weight", "bias")
        }
        return AttentionPoolWeights(
            **linear, positional_embedding=pool.positional_embedding, heads=pool.num_heads
        )

    @property
    def grid(self) -> tuple[int, int]:
        """(g, g): the layer4 map at the native image size."""
        side = round((len(self.visual.attnpool.positional_embedding) - 1) ** 0.5)
        return side, side

    def stages(self, images: Tensor) -> list[Tensor]:
        """The maps of layer1..layer4 at strides 4, 8, 16, 32, for images (B, 3, H, W) of any size >= 32."""
        x = self.visual.stem(images.contiguous(memory_format=torch.channels_last))  # (B, w, H/4, W/4)
        maps = []
        for layer in (self.visual.layer1, self.visual.layer2, self.visual.layer3, self.visual.layer4):
            x = layer(x)
            maps.append(x)
        return maps

    def trunk(self, images: Tensor, stride: int = 32) -> Tensor:
        """Images (B, 3, H, W), normalised -> layer4 (B, 32w, H/stride, W/stride), after its ReLU.

        stride: 32 as trained, or 16: layer4 keeps its input's resolution and its later 3x3 convolutions are
        dilated, so that the same weights are evaluated twice as densely (DeepLab, Chen et al., section 3.1).
        """
        if stride == 32:
            return self.stages(images)[-1]
        # A pooled value sits between two cells of layer3: half a cell more on every side puts it back on a cell.
        x = self.stages(F.pad(images, (8, 8, 8, 8), mode="replicate"))[2]  # (B, 16w, H/16 + 1, W/16 + 1)
        for i, block in enumerate(self.visual.layer4):
            x = _unstrided(block, x, dilation=2 if i else 1)
        return x

    def folded(self) -> "ResNetTower":
        """A copy whose batch norms are merged into the convolutions before them."""
        visual = copy.deepcopy(self.visual)
        layers = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
        blocks = [block for layer in layers for block in layer]
        for part in (visual, *blocks):
            for i in "123":
                _fold(part, f"conv{i}", f"bn{i}")
            if getattr(part, "downsample", None) is not None:
                _fold(part.downsample, "0", "1")
        return ResNetTower(visual)

    def forward(self, images: Tensor) -> Tensor:
        """Plain CLIP: images (B, 3, S, S) of the native size -> (B, D), not normalised."""
        return self.visual.attnpool(self.trunk(images))


def _fold(part: Untyped, convolution: str, norm: str) -> None:
    merged = fuse_conv_bn_eval(getattr(part, convolution), getattr(part, norm))
    setattr(part, convolution, merged)
    setattr(part, norm, nn.Identity())


def _unstrided(block: Untyped, x: Tensor, dilation: int) -> Tensor:
    """A bottleneck whose 2x2 average pooling, if it has one, moves by one cell: (B, C, h, w) -> h - 1, w - 1."""
    pools = isinstance(block.avgpool, nn.AvgPool2d)

    def pool(y: Tensor) -> Tensor:
        return F.avg_pool2d(y, 2, stride=1) if pools else y

    y = block.act1(block.bn1(block.conv1(x)))
    y = F.conv2d(y, block.conv2.weight, block.conv2.bias, padding=dilation, dilation=dilation)
    y = block.bn3(block.conv3(pool(block.act2(block.bn2(y)))))
    if block.downsample is not None:
        _, convolution, norm = block.downsample
        x = norm(convolution(pool(x)))
    return block.act3(y + x)


class ViTTower(nn.Module):
    """CLIP's vision transformer: patches, class token, blocks, one projection."""

    kind = "ViT"
    visual: Untyped

    def __init__(self, visual: Untyped, *, quick_gelu: bool) -> None:
        super().__init__()
        self.visual = visual
        self.quick_gelu = quick_gelu
        self.patch_size: int = visual.patch_size[0]
        self.grid: tuple[int, int] = tuple(visual.grid_size)
        self.width: int = visual.conv1.out_channels
        self.heads: int = visual.transformer.resblocks[0].attn.num_heads
        self.pool: str = visual.pool_type  # "tok": class token, "avg": mean of the patches

    @property
    def class_embedding(self) -> Tensor:
        """(W,)."""
        return self.visual.class_embedding

    @property
    def positional_embedding(self) -> Tensor:
        """(1 + g*g, W), row 0 for the class token, then the grid row by row."""
        return self.visual.positional_embedding

    @property
    def ln_pre(self) -> NormWeights | None:
        """The norm before the first block; None for the few models without it."""
        return _norm(self.visual.ln_pre) if isinstance(self.visual.ln_pre, nn.LayerNorm) else None

    @property
    def ln_post(self) -> NormWeights:
        """The norm after the last block."""
        return _norm(self.visual.ln_post)

    @property
    def proj(self) -> Tensor:
        """(W, D), used as x @ proj."""
        return self.visual.proj

    @property
    def blocks(self) -> list[BlockWeights]:
        """The weights of all blocks, first to last."""
        return [_block(block) for block in self.visual.transformer.resblocks]

    def patch(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), H and W multiples of `patch_size` -> tokens (B, hw, W) without position."""
        assert not any(side % self.patch_size for side in images.shape[-2:]), tuple(images.shape)
        return self.visual.conv1(images).flatten(2).transpose(1, 2)  # (B, hw, W)

    def forward(self, images: Tensor) -> Tensor:
        """Plain CLIP: images (B, 3, S, S) of the native size -> (B, D), not normalised."""
        return self.visual(images)


class TextTower(nn.Module):
    """CLIP's text transformer. `causal`: tokens see only those before; `pool`: where the sentence is read."""

    text: Untyped

    def __init__(self, text: Untyped, *, quick_gelu: bool) -> None:
        super().__init__()
        self.text = text
        self.quick_gelu = quick_gelu
        self.context_length: int = text.context_length
        self.vocab_size: int = text.vocab_size
        self.width: int = text.width
        self.heads: int = text.heads
        self.pool: str = text.pool_type
        self.eos_id: int = text.eos_id
        self.causal: bool = text.attn_mask is not None

    @property
    def token_embedding(self) -> Tensor:
        """(V, W)."""
        return self.text.token_embedding.weight

    @property
    def positional_embedding(self) -> Tensor:
        """(context_length, W)."""
        return self.text.positional_embedding

    @property
    def ln_final(self) -> NormWeights:
        """The norm after the last block."""
        return _norm(self.text.ln_final)

    @property
    def blocks(self) -> list[BlockWeights]:
        """The weights of all blocks, first to last."""
        return [_block(block) for block in self.text.transformer.resblocks]

    def project(self, x: Tensor) -> Tensor:
        """(..., W) -> (..., D)."""
        projection = self.text.text_projection
        if isinstance(projection, nn.Linear):
            return projection(x)
        return x if projection is None else x @ projection

    def ends(self, tokens: Tensor) -> Tensor:
        """Tokens (N, L) -> position (N,) of the token that stands for the sentence."""
        if self.pool in ("first", "last"):
            return tokens.new_full((len(tokens),), 0 if self.pool == "first" else tokens.shape[1] - 1)
        marks = tokens if self.pool == "argmax" else (tokens == self.eos_id).int()
        return marks.argmax(dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (N, L), L <= context_length -> (N, D), not normalised.

        With `causal` the padding after the last sentence's end may be cut off beforehand: nothing sees it.
        """
        length = tokens.shape[1]
        x = F.embedding(tokens, self.token_embedding) + self.positional_embedding[:length]  # (N, L, W)
        mask = self.text.attn_mask[:length, :length].to(x.dtype) if self.causal else None
        x = self.text.transformer(x, attn_mask=mask)  # (N, L, W)
        x = self.ln_final(x[torch.arange(len(x), device=x.device), self.ends(tokens)])  # (N, W)
        return self.project(x)  # (N, D)


def skeleton(config: Mapping[str, Any], source: str) -> Untyped:
    """An open_clip model without values (meta tensors): nothing can run until `fill` gave it every weight."""
    try:
        with torch.device("meta"):
            return untrained(config)
    except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{source}: open_clip cannot build this model config ({reason}); mend it") from error


def untrained(config: Mapping[str, Any]) -> Untyped:
    """An open_clip model with initial values: for training one from scratch, never for inference."""
    import open_clip

    names = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")
    return open_clip.CustomTextCLIP(**{name: config[name] for name in names})


def config_fields() -> tuple[frozenset[str], frozenset[str]]:
    """The keys that open_clip knows in `vision_cfg` and in `text_cfg`."""
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    return (frozenset(f.name for f in fields(CLIPVisionCfg)), frozenset(f.name for f in fields(CLIPTextCfg)))


def fill(
    model: Untyped, state: Mapping[str, Tensor], *, quick_gelu: bool
) -> tuple[ResNetTower | ViTTower, TextTower]:
    """Put `state`, complete, into a `skeleton` and hand out its two towers, frozen and in eval mode."""
    model.load_state_dict(dict(state), strict=True, assign=True)
    if model.text.attn_mask is not None:
        model.text.attn_mask = model.text.build_causal_mask()
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    model.requires_grad_(False)
    is_resnet = hasattr(model.visual, "attnpool")
    image = ResNetTower(model.visual) if is_resnet else ViTTower(model.visual, quick_gelu=quick_gelu)
    return image.eval(), TextTower(model.text, quick_gelu=quick_gelu).eval()


def cast(tower: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move a tower in place. Batch norms stay float32: rounded statistics would shift every pixel."""
    for part in tower.modules():
        kept = torch.float32 if isinstance(part, nn.BatchNorm2d) else dtype
        for parameter in part.parameters(recurse=False):
            parameter.data = parameter.data.to(device, kept)
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = buffer.to(device, kept if buffer.is_floating_point() else buffer.dtype)


def _norm(norm: nn.LayerNorm) -> NormWeights:
    return NormWeights(norm.weight, norm.bias, norm.eps)


def _block(block: Untyped) -> BlockWeights:
    return BlockWeights(
        ln_1=_norm(block.ln_1),
        in_proj_weight=block.attn.in_proj_weight,
        in_proj_bias=block.attn.in_proj_bias,
        out_weight=block.attn.out_proj.weight,
        out_bias=block.attn.out_proj.bias,
        ln_2=_norm(block.ln_2),
        fc_weight=block.mlp.c_fc.weight,
        fc_bias=block.mlp.c_fc.bias,
        proj_weight=block.mlp.c_proj.weight,
        proj_bias=block.mlp.c_proj.bias,
        ls_1=getattr(block.ls_1, "gamma", None),
        ls_2=getattr(block.ls_2, "gamma", None),
    )
