"""CLIP's text encoder, with learnable contexts between the start token and the name."""

import torch
from torch import Tensor, nn

from denseclip.nets.denseclip.blocks import Block, Transformer
from denseclip.nets.denseclip.shapes import TextShape


class TextEncoder(nn.Module):
    """CLIP's text transformer: plain, or with contexts (official CLIPTextEncoder, CLIPTextContextEncoder)."""

    def __init__(self, shape: TextShape, embed_dim: int) -> None:
        super().__init__()
        width = shape.width
        self.end = shape.end
        self.token_embedding = nn.Embedding(shape.vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.randn(shape.rows, width) * 0.01)
        self.transformer = Transformer(
            [
                Block(
                    width,
                    shape.heads,
                    shape.hidden,
                    quick_gelu=shape.quick_gelu,
                    layer_scale=shape.layer_scale,
                    causal=True,
                )
                for _ in range(shape.layers)
            ]
        )
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, embed_dim) * width**-0.5)

    @property
    def rows(self) -> int:
        """The longest sequence, contexts included."""
        return len(self.positional_embedding)

    def forward(self, tokens: Tensor, contexts: Tensor | None = None) -> Tensor:
        """Tokens (K, L) -> (K, D), not normalised; with contexts (B, N, W) -> (B, K, D).

        [start] [contexts] [name, end, padding]; tokens see only those before, so padding changes nothing.
        """
        x = self.token_embedding(tokens)  # (K, L, W)
        ends = tokens.argmax(dim=-1) if self.end is None else (tokens == self.end).int().argmax(dim=-1)
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
        x = x[torch.arange(x.shape[0], device=x.device), ends]  # (N, W)
        return self.ln_final(x) @ self.text_projection.to(x.dtype)
