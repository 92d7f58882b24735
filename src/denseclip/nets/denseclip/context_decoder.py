"""The context decoder: words, or queries, look at the picture."""

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
