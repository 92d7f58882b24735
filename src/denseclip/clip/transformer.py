"""CLIP's pre-norm transformer, for pictures and words, and the text tower, under the names of their weights."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseclip.errors import UserError

Grid = tuple[int, int]
Positions = Literal["bicubic", "bilinear", "crop"]


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), as in OpenAI's weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return x * torch.sigmoid(1.702 * x)


class DropPath(nn.Module):
    """A residual branch left out at random in training (Huang et al., 2016), of each picture by itself.

    by_position: the official quirk of DenseCLIP, one draw for each token position, shared by the whole batch.
    """

    def __init__(self, rate: float, *, by_position: bool = False) -> None:
        super().__init__()
        self.rate, self.by_position = rate, by_position

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, W)."""
        if not self.training or self.rate == 0:
            return x
        shape = (1, x.shape[1], 1) if self.by_position else (len(x), 1, 1)
        return x * x.new_empty(shape).bernoulli_(1 - self.rate).div_(1 - self.rate)


class Attention(nn.Module):
    """Multi-head self-attention with packed projections; `causal`: tokens see only those before."""

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.in_proj_weight, std=width**-0.5)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, N, W) -> queries, keys and values, each (B, heads, N, W / heads)."""
        y = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # (B, N, 3W)
        q, k, v = y.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, W) -> keys and values, as `qkv`."""
        width = x.shape[-1]
        y = F.linear(x, self.in_proj_weight[width:], self.in_proj_bias[width:])  # (B, N, 2W)
        k, v = y.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return k, v

    def keys(self, x: Tensor) -> Tensor:
        """Tokens (B, N, W) -> keys (B, N, W), the heads side by side."""
        width = x.shape[-1]
        return F.linear(x, self.in_proj_weight[width : 2 * width], self.in_proj_bias[width : 2 * width])

    def values(self, x: Tensor) -> Tensor:
        """Tokens (..., W) -> values (..., W), the heads side by side."""
        start = 2 * x.shape[-1]
        return F.linear(x, self.in_proj_weight[start:], self.in_proj_bias[start:])

    def project(self, y: Tensor) -> Tensor:
        """What the heads attended to, (B, heads, N, W / heads) -> (B, N, W)."""
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, W) -> (B, N, W)."""
        return self.project(F.scaled_dot_product_attention(*self.qkv(x), is_causal=self.causal))


class Mlp(nn.Module):
    """Two linear layers with QuickGELU or GELU between them, exact or, with `tanh`, approximated."""

    def __init__(self, width: int, hidden: int, *, quick_gelu: bool, tanh: bool = False) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.gelu = QuickGELU() if quick_gelu else nn.GELU("tanh" if tanh else "none")
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) -> (..., W)."""
        return self.c_proj(self.gelu(self.c_fc(x)))


class LayerScale(nn.Module):
    """A learned factor per channel, which a few CLIPs have."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., W)."""
        return x * self.gamma


class Block(nn.Module):
    """x += attention(norm x); x += mlp(norm x)."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        quick_gelu: bool,
        tanh: bool = False,
        causal: bool = False,
        layer_scale: bool = False,
        eps: float = 1e-5,
        drop_path: DropPath | None = None,
    ) -> None:
        super().__init__()
        self.attn = Attention(width, heads, causal=causal)
        self.ln_1 = nn.LayerNorm(width, eps)
        self.mlp = Mlp(width, hidden, quick_gelu=quick_gelu, tanh=tanh)
        self.ln_2 = nn.LayerNorm(width, eps)
        self.ls_1 = LayerScale(width) if layer_scale else nn.Identity()
        self.ls_2 = LayerScale(width) if layer_scale else nn.Identity()
        self.drop_path = drop_path or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, W) -> (B, N, W)."""
        x = x + self.drop_path(self.ls_1(self.attn(self.ln_1(x))))
        return x + self.drop_path(self.ls_2(self.mlp(self.ln_2(x))))


class Transformer(nn.Module):
    """A stack of blocks."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(blocks)

    @property
    def blocks(self) -> list[Block]:
        """First to last."""
        return list(self.resblocks)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, W) -> (B, N, W)."""
        for block in self.resblocks:
            x = block(x)
        return x


def resize_positions(
    table: Tensor,
    grid: Grid,
    how: Positions = "bicubic",
    *,
    antialias: bool = True,
    native: Grid | None = None,
    scale_offset: float = 0.0,
    always: bool = False,
) -> Tensor:
    """A position table for another grid, its first row (the whole picture's) kept.

    Args:
        table: (1 + g * g, W), row 0 for the class or mean token, then the grid row by row.
        grid: (h, w) of the map.
        how: interpolate ("bicubic" in CLIP's ViTs, "bilinear" in DenseCLIP), or take the top left corner ("crop",
            the official detectors).
        antialias: for "bicubic"; the official MaskCLIP code has none.
        native: the table's own grid, if it is not square.
        scale_offset: added to h and w where the scale is reckoned, not the size: 0.1 in DINO's code and in those that
            took it over, against rounding, which moves every sample a little.
        always: also where the grid is the table's own.

    Returns:
        (1 + h * w, W); the table itself where the grid is its own.

    Raises:
        UserError: "crop" for a grid larger than the table's.
    """
    side = round((len(table) - 1) ** 0.5)
    native = native or (side, side)
    if (
        not always and not torch.compiler.is_exporting() and grid == native
    ):  # an exported model takes any size
        return table
    if how == "crop":
        if grid[0] > native[0] or grid[1] > native[1]:
            raise UserError(
                f"a map of {grid[0]}x{grid[1]} cells is larger than the {native[0]}x{native[1]} positions that are "
                "cropped; use smaller pictures, or positions='interpolate'"
            )
        corner = table[1:].view(*native, -1)[: grid[0], : grid[1]]  # (h, w, W)
        return torch.cat([table[:1], corner.reshape(grid[0] * grid[1], -1)])
    spatial = table[1:].float().T.reshape(1, -1, *native)  # (1, W, g, g)
    smooth = antialias and how == "bicubic"
    if scale_offset:
        scale = tuple((side + scale_offset) / own for side, own in zip(grid, native, strict=True))
        spatial = F.interpolate(spatial, scale_factor=scale, mode=how, align_corners=False)
    else:
        spatial = F.interpolate(spatial, grid, mode=how, align_corners=False, antialias=smooth)
    return torch.cat([table[:1].float(), spatial.flatten(2)[0].T])


def normal(*shape: int, std: float) -> nn.Parameter:
    """A parameter with normally distributed initial values."""
    parameter = nn.Parameter(torch.empty(shape))
    nn.init.normal_(parameter, std=std)
    return parameter


class TextTransformer(nn.Module):
    """CLIP's text transformer, plain or with learned contexts between the start token and the name.

    context_length: the longest sentence in tokens. causal: tokens see only those before. pool: where a sentence is
    read: "argmax" (the highest id, CLIP's end token), "eos" (the id `eos`), "first" or "last".
    projection: a "matrix", a "linear" layer with bias, or "none".
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        context_length: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        embed_dim: int,
        quick_gelu: bool,
        tanh: bool = False,
        causal: bool = True,
        pool: str = "argmax",
        eos: int | None = None,
        layer_scale: bool = False,
        eps: float = 1e-5,
        projection: str = "matrix",
    ) -> None:
        super().__init__()
        assert pool in ("argmax", "eos", "first", "last"), f"pool_type {pool!r}"
        self.width, self.heads, self.causal, self.pool, self.eos = width, heads, causal, pool, eos
        self.quick_gelu = quick_gelu
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = normal(context_length, width, std=0.01)
        options: dict[str, Any] = {
            "quick_gelu": quick_gelu,
            "layer_scale": layer_scale,
            "eps": eps,
            "tanh": tanh,
        }
        blocks = [Block(width, heads, hidden, causal=causal, **options) for _ in range(layers)]
        self.transformer = Transformer(blocks)
        self.ln_final = nn.LayerNorm(width, eps)
        self.text_projection: nn.Parameter | nn.Linear | None = None
        if projection == "linear":
            self.text_projection = nn.Linear(width, embed_dim)
        elif projection == "matrix":
            self.text_projection = normal(width, embed_dim, std=width**-0.5)

    @property
    def context_length(self) -> int:
        """The longest sentence in tokens, learned contexts included."""
        return len(self.positional_embedding)

    def ends(self, tokens: Tensor) -> Tensor:
        """Tokens (N, L) -> position (N,) of the token that stands for the sentence."""
        if self.pool in ("first", "last"):
            return tokens.new_full((len(tokens),), 0 if self.pool == "first" else tokens.shape[1] - 1)
        marks = tokens if self.pool == "argmax" else tokens.eq(self.eos or 0).int()
        return marks.argmax(dim=-1)

    def forward(self, tokens: Tensor, contexts: Tensor | None = None) -> Tensor:
        """Tokens (K, L) -> (K, D), not normalized; with contexts (B, N, W) -> (B, K, D).

        [start] [contexts] [name, end, padding] (DenseCLIP, section 3.2). Where tokens see only those before, the
        padding after the last sentence's end may be cut off beforehand.
        """
        x, ends = self.token_embedding(tokens), self.ends(tokens)  # (K, L, W), (K,)
        if contexts is None:
            return self._encode(x, ends)
        batch, count = contexts.shape[0], tokens.shape[0]
        x = x.expand(batch, *x.shape)  # (B, K, L, W)
        between = contexts[:, None].expand(-1, count, -1, -1).to(x.dtype)  # (B, K, N, W)
        x = torch.cat([x[:, :, :1], between, x[:, :, 1:]], dim=2).flatten(0, 1)  # (B K, L + N, W)
        return self._encode(x, (ends + contexts.shape[1]).repeat(batch)).unflatten(0, (batch, count))

    def _encode(self, x: Tensor, ends: Tensor) -> Tensor:
        """Embedded sequences (N, L, W), read at `ends` (N,) -> (N, D)."""
        x = self.transformer(x + self.positional_embedding[: x.shape[1]].to(x.dtype))
        x = self.ln_final(x[torch.arange(x.shape[0], device=x.device), ends])  # (N, W)
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(x)
        return x if self.text_projection is None else x @ self.text_projection.to(x.dtype)
