"""The pre-norm transformer block of CLIP, for pictures and words, under the names of its weights."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), as in OpenAI's weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return x * torch.sigmoid(1.702 * x)


class DropPath(nn.Module):
    """A residual branch left out at random in training (Huang et al., 2016), of each picture by itself.

    by_position: the official quirk, one draw for each token position, shared by the whole batch.
    """

    def __init__(self, rate: float, *, by_position: bool = False) -> None:
        super().__init__()
        self.rate, self.by_position = rate, by_position

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, L, W)."""
        if not self.training or self.rate == 0:
            return x
        shape = (1, x.shape[1], 1) if self.by_position else (len(x), 1, 1)
        return x * x.new_empty(shape).bernoulli_(1 - self.rate).div_(1 - self.rate)


class Attention(nn.Module):
    """Multi-head self-attention with packed projections; `causal`: tokens see only those before."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.in_proj_weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, L, W) -> (B, L, W)."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # (B, L, 3W)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, L, W / heads)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with QuickGELU or exact GELU between them."""

    def __init__(self, width: int, hidden: int, *, quick_gelu: bool) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.gelu = QuickGELU() if quick_gelu else nn.GELU()
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
        causal: bool = False,
        layer_scale: bool = False,
        drop_path: DropPath | None = None,
    ) -> None:
        super().__init__()
        self.attn = Attention(width, heads, causal=causal)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = Mlp(width, hidden, quick_gelu=quick_gelu)
        self.ln_2 = nn.LayerNorm(width)
        self.ls_1 = LayerScale(width) if layer_scale else nn.Identity()
        self.ls_2 = LayerScale(width) if layer_scale else nn.Identity()
        self.drop_path = drop_path or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, L, W) -> (B, L, W)."""
        x = x + self.drop_path(self.ls_1(self.attn(self.ln_1(x))))
        return x + self.drop_path(self.ls_2(self.mlp(self.ln_2(x))))


class Transformer(nn.Module):
    """A stack of blocks."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, L, W) -> (B, L, W)."""
        for block in self.resblocks:
            x = block(x)
        return x
