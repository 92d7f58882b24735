"""CLIP's networks as plain modules: ResNet, vision transformer, text transformer, under the names of their weights.

Everything that has a CLIP inside uses these: training-free segmentation, MaskCLIP+'s backbones, DenseCLIP, and the
embedded tiny models.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

from denseclip.clip.transformer import (
    Block,
    DropPath,
    Grid,
    Positions,
    TextTransformer,
    Transformer,
    normal,
    resize_positions,
)
from denseclip.errors import UserError

Module = TypeVar("Module", bound=nn.Module)
OUTPUT_STRIDES = {  # output stride: (strides, dilations) of the four stages
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
}


def stage_rates(output_stride: int) -> tuple[Sequence[int], Sequence[int]]:
    """Strides and dilations of the four stages; UserError for an output stride that there is not."""
    if output_stride not in OUTPUT_STRIDES:
        raise UserError(f"output stride {output_stride} is not possible; choose 8, 16 or 32")
    return OUTPUT_STRIDES[output_stride]


class BatchNorm2d(nn.BatchNorm2d):
    """A batch norm that stays float32 when the rest goes to 16 bits: rounded statistics would shift every pixel."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        probe = fn(torch.empty(0, device=self.running_mean.device))  # type: ignore[union-attr]
        if probe.dtype not in (torch.float16, torch.bfloat16):
            return super()._apply(fn, recurse)
        return super()._apply(lambda tensor: tensor.to(probe.device), recurse)


class Bottleneck(nn.Module):
    """CLIP's bottleneck: strides are 2x2 means after the 3x3 convolution and before the shortcut's."""

    def __init__(
        self, inputs: int, inner: int, *, first: bool, pools: bool = False, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.pools, self.stride, self.dilation = pools, stride, dilation
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, 4 * inner, 1, bias=False)
        self.bn3 = BatchNorm2d(4 * inner)
        shortcut = (nn.Conv2d(inputs, 4 * inner, 1, bias=False), BatchNorm2d(4 * inner))
        self.downsample = nn.Sequential(*shortcut) if first else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, 4 inner, h / stride, w / stride)."""
        return self._run(x, self.dilation, self._pool)

    def unstrided(self, x: Tensor, dilation: int) -> Tensor:
        """The same with a dilated 3x3 convolution and pooling that moves by one cell: h, w -> h - 1, w - 1."""
        return self._run(x, dilation, lambda y: F.avg_pool2d(y, 2, stride=1) if self.pools else y)

    def _run(self, x: Tensor, dilation: int, pool: Callable[[Tensor], Tensor]) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.conv2d(y, self.conv2.weight, self.conv2.bias, padding=dilation, dilation=dilation)
        y = self.bn3(self.conv3(pool(F.relu(self.bn2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(pool(x))))

    def _pool(self, x: Tensor) -> Tensor:
        """The 2x2 mean, if this block has one; without its stride the cells are `dilation` apart."""
        if not self.pools:
            return x
        if self.stride == 2:
            return F.avg_pool2d(x, 2)
        d = self.dilation
        x = F.pad(x, (0, d, 0, d), mode="replicate")
        x = x[..., :-d, :] + x[..., d:, :]
        return (x[..., :-d] + x[..., d:]) / 4


def to_map(tokens: Tensor, grid: Grid) -> Tensor:
    """(B, hw, C) -> (B, C, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, grid)


class AttentionPool(nn.Module):
    """The attention pool of a CLIP ResNet: a mean token and all cells, each asking all of them.

    positions: how the position table becomes one for the map at hand, see `resize_positions`.
    """

    def __init__(
        self, channels: int, embed_dim: int, heads: int, grid: int, positions: Positions = "bilinear"
    ) -> None:
        super().__init__()
        self.heads, self.positions = heads, positions
        self.positional_embedding = normal(1 + grid * grid, channels, std=channels**-0.5)
        self.k_proj = nn.Linear(channels, channels)
        self.q_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.c_proj = nn.Linear(channels, embed_dim)

    def qkv(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, N, C) -> queries, keys and values, each (B, heads, N, C / heads)."""
        q, k, v = (self._heads(proj(tokens)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        return q, k, v

    def project(self, y: Tensor) -> Tensor:
        """What the heads attended to, (B, heads, N, C / heads) -> (B, N, D)."""
        return self.c_proj(y.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A map (B, C, h, w) -> global feature (B, D), dense feature (B, D, h, w).

        DenseCLIP, section 3.1: [g; z] = MHSA([mean; cells]), without norm and residual.
        """
        grid = (x.shape[2], x.shape[3])
        tokens = with_mean(x.flatten(2).transpose(1, 2))  # (B, 1 + hw, C)
        table = resize_positions(self.positional_embedding, grid, self.positions)
        q, k, v = self.qkv(tokens + table.to(tokens.dtype))
        pooled = self.project(F.scaled_dot_product_attention(q, k, v))  # (B, 1 + hw, D)
        return pooled[:, 0], to_map(pooled[:, 1:], grid)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, C / heads)


def with_mean(tokens: Tensor) -> Tensor:
    """(B, N, C) -> (B, 1 + N, C), their mean first."""
    return torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)


class ResNet(nn.Module):
    """CLIP's modified ResNet: a stem of three convolutions, pooled strides, and, with `embed_dim`, an attention pool.

    layers: blocks of each stage. width: channels after the stem. output_stride: 32 as trained; with 8 or 16 the last
    stages are dilated, so that at every cell of stride 32 the same is computed (sides that are multiples of 32).
    heads, grid: of the attention pool, whose table has 1 + grid * grid rows.

    channels, reductions: of the four maps, and input pixels per cell. Raises UserError for another output stride.
    """

    def __init__(
        self,
        layers: Sequence[int],
        width: int,
        *,
        embed_dim: int | None = None,
        heads: int = 32,
        grid: int = 7,
        positions: Positions = "bilinear",
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        strides, dilations = stage_rates(output_stride)
        self.layers, self.width, self.grid = tuple(layers), width, (grid, grid)
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = BatchNorm2d(width)
        inputs, reductions = width, [4]
        for i, (count, stride, dilation) in enumerate(zip(layers, strides, dilations, strict=True)):
            inner, half = width * 2**i, max(1, dilation // 2)
            blocks = [Bottleneck(inputs, inner, first=True, pools=i > 0, stride=stride, dilation=half)]
            blocks += [Bottleneck(4 * inner, inner, first=False, dilation=dilation) for _ in range(count - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            inputs = 4 * inner
            reductions.append(reductions[-1] * stride)
        self.channels = tuple(4 * width * 2**i for i in range(4))
        self.reductions = tuple(reductions[1:])
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        self.attnpool = AttentionPool(inputs, embed_dim, heads, grid, positions) if embed_dim else None

    @property
    def pool(self) -> AttentionPool:
        """The attention pool; there has to be one."""
        assert self.attnpool is not None
        return self.attnpool

    def maps(self, images: Tensor, stages: int = 4) -> list[Tensor]:
        """Images (B, 3, H, W), normalized, sides of at least 32 -> the maps of the first `stages` stages."""
        x = images
        for i in "123":
            x = F.relu(self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x)))
        x = F.avg_pool2d(x, 2)  # (B, width, H/4, W/4)
        found = []
        for stage in range(1, stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
            found.append(x)
        return found

    def last_map(self, images: Tensor, stride: int = 32) -> Tensor:
        """Images (B, 3, H, W), normalized -> layer4 (B, 32 width, H / stride, W / stride), after its ReLU.

        stride: 32 as trained, or 16: layer4 keeps its input's resolution and its later 3x3 convolutions are
        dilated, so that the same weights are evaluated twice as densely (DeepLab, Chen et al., section 3.1).
        """
        if stride == 32:
            return self.maps(images)[-1]
        # A pooled value sits between two cells of layer3: half a cell more on every side puts it back on a cell.
        x = self.maps(F.pad(images, (8, 8, 8, 8), mode="replicate"), stages=3)[
            -1
        ]  # (B, 16w, H/16 + 1, W/16 + 1)
        for i, block in enumerate(self.get_submodule("layer4").children()):
            assert isinstance(block, Bottleneck)
            x = block.unstrided(x, dilation=2 if i else 1)
        return x

    def forward(self, images: Tensor) -> Tensor:
        """Plain CLIP: images (B, 3, S, S) of the native size -> (B, D), not normalized."""
        return self.pool(self.maps(images)[-1])[0]

    def folded(self) -> "ResNet":
        """A copy for inference whose batch norms are merged into the convolutions before them."""
        folded = copy.deepcopy(self)
        parts = [part for part in folded.modules() if isinstance(part, ResNet | Bottleneck)]
        for part in parts:
            for i in "123":
                _fold(part, f"conv{i}", f"bn{i}")
            if isinstance(part, Bottleneck) and part.downsample is not None:
                _fold(part.downsample, "0", "1")
        return folded


def _fold(part: nn.Module, convolution: str, norm: str) -> None:
    merged = fuse_conv_bn_eval(getattr(part, convolution), getattr(part, norm))
    setattr(part, convolution, merged)
    setattr(part, norm, nn.Identity())


class VisionTransformer(nn.Module):
    """CLIP's ViT: patches, class token, blocks, one projection.

    patch: pixels on the side of a patch. grid: (g, g), the patches of the native size. hidden: width of the MLPs.
    embed_dim: D; None for a trunk without the last norm and projection. pool: what stands for the whole picture,
    "tok" (class token) or "avg" (mean of the patches). drop_path: highest rate, rising with depth.

    prefix: tokens before the patches.
    """

    prefix = 1

    def __init__(
        self,
        *,
        patch: int,
        grid: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        embed_dim: int | None,
        quick_gelu: bool,
        tanh: bool = False,
        pool: str = "tok",
        norm_first: bool = True,
        norm_after_pool: bool = False,
        layer_scale: bool = False,
        eps: float = 1e-5,
        drop_path: Callable[[int], DropPath | None] = lambda block: None,
    ) -> None:
        super().__init__()
        self.patch_size, self.grid, self.width, self.heads = patch, (grid, grid), width, heads
        assert pool in ("tok", "avg"), f"pool_type {pool!r}"
        self.pool, self.norm_after_pool, self.quick_gelu = pool, norm_after_pool, quick_gelu
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = normal(width, std=width**-0.5)
        self.positional_embedding = normal(1 + grid * grid, width, std=width**-0.5)
        self.ln_pre = nn.LayerNorm(width, eps) if norm_first else nn.Identity()
        options: dict[str, Any] = {
            "quick_gelu": quick_gelu,
            "layer_scale": layer_scale,
            "eps": eps,
            "tanh": tanh,
        }
        blocks = [Block(width, heads, hidden, drop_path=drop_path(i), **options) for i in range(layers)]
        self.transformer = Transformer(blocks)
        self.proj: nn.Parameter | None = None
        if embed_dim:
            self.ln_post = nn.LayerNorm(width, eps)
            self.proj = normal(width, embed_dim, std=width**-0.5)

    def embed(self, images: Tensor, table: Callable[[Grid], Tensor] | None = None) -> tuple[Tensor, Grid]:
        """Images (B, 3, H, W), normalized, of any size -> tokens (B, 1 + hw, W) before the first block, and (h, w).

        What goes beyond whole patches on the right and below is not seen. table: the position table (1 + hw, W) for a
        grid; by default the native one resized bicubically.
        """
        x = self.conv1(images)  # (B, W, h, w)
        grid = (x.shape[2], x.shape[3])
        first = self.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([first, x.flatten(2).transpose(1, 2)], dim=1)  # (B, 1 + hw, W)
        rows = table(grid) if table else resize_positions(self.positional_embedding, grid)
        return self.ln_pre(x + rows.to(x.dtype)), grid

    def project(self, x: Tensor) -> Tensor:
        """Tokens after the last block, (..., W) -> (..., D)."""
        assert self.proj is not None
        return self.ln_post(x) @ self.proj.to(x.dtype)

    def pooled(self, x: Tensor) -> Tensor:
        """Tokens after the last block, (B, 1 + hw, W) -> the whole picture's (B, D), as it was trained."""
        if self.pool == "tok":
            return self.project(x[:, 0])
        return self.project(x[:, 1:].mean(1)) if self.norm_after_pool else self.project(x)[:, 1:].mean(1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalized -> (B, D), not normalized."""
        return self.pooled(self.transformer(self.embed(images)[0]))

    def variant(self, *, quick_gelu: bool, eps: float | None) -> "VisionTransformer":
        """The same weights, shared, under another activation and another epsilon of all norms."""
        if quick_gelu == self.quick_gelu and eps is None:
            return self
        shared = {id(tensor): tensor for tensor in self.parameters()}
        other = copy.deepcopy(self, shared)
        other.quick_gelu = quick_gelu
        fresh = Block(1, 1, 1, quick_gelu=quick_gelu)
        for part in other.modules():
            if isinstance(part, Block):
                part.mlp.gelu = fresh.mlp.gelu
            if isinstance(part, nn.LayerNorm) and eps is not None:
                part.eps = eps
        return other


class Towers(nn.Module):
    """Both networks of a CLIP and its scale, named as its weights are: `visual.*`, `text.*`, `logit_scale`."""

    def __init__(self, visual: ResNet | VisionTransformer, text: TextTransformer) -> None:
        super().__init__()
        self.visual, self.text = visual, text
        self.logit_scale = nn.Parameter(torch.tensor(2.6593))  # log(1 / 0.07)


def without_values(build: Callable[[], Module]) -> Module:
    """What `build` makes, on the meta device: nothing of it can run until every weight is given."""
    with torch.device("meta"), _NoDraws():
        return build()


class _NoDraws(TorchFunctionMode):
    """Initial values of meta tensors are not drawn, which would cost an import of torch's compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if func.__name__.endswith(("normal_", "uniform_")):  # of torch.nn.init or of tensors
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
