"""CLIP's modified ResNet, with its attention pool as a fifth output or without (the plain baseline)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseclip.nets.clip_resnet import ClipResNet
from denseclip.nets.denseclip.config import Positions
from denseclip.nets.denseclip.positions import table_for
from denseclip.nets.denseclip.shapes import ResNetShape
from denseclip.nets.denseclip.trunk import Trunk, TrunkOutput
from denseclip.nets.resnet import ResNetShape as TrunkShape


class AttentionPool(nn.Module):
    """CLIP's pool with every token as a query: the picture's own vector and a local one for each cell.

    Section 3.1: [g; z] = MHSA([mean; cells]); no norm and no residual.
    """

    def __init__(self, channels: int, embed_dim: int, heads: int, grid: int, positions: Positions) -> None:
        super().__init__()
        self.heads, self.positions = heads, positions
        self.positional_embedding = nn.Parameter(torch.randn(1 + grid * grid, channels) * channels**-0.5)
        self.k_proj = nn.Linear(channels, channels)
        self.q_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.c_proj = nn.Linear(channels, embed_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> g (B, D), z (B, D, h, w)."""
        size = (x.shape[2], x.shape[3])
        tokens = x.flatten(2).transpose(1, 2)  # (B, hw, C)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)  # (B, 1 + hw, C)
        tokens = tokens + table_for(self.positional_embedding, size, self.positions).to(tokens.dtype)
        q, k, v = (self._heads(proj(tokens)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        pooled = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B, 1 + hw, C)
        pooled = self.c_proj(pooled)  # (B, 1 + hw, D)
        return pooled[:, 0], pooled[:, 1:].transpose(1, 2).unflatten(2, size)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, C / heads)


class ResNetTrunk(ClipResNet, Trunk):
    """Stem of three convolutions, four stages at strides 4 to 32, and with `embed_dim` the attention pool."""

    score_level = 3

    def __init__(self, shape: ResNetShape, embed_dim: int | None, positions: Positions) -> None:
        super().__init__(TrunkShape(shape.layers, stem=shape.width, base=shape.width), output_stride=32)
        self.attnpool = (
            AttentionPool(self.channels[-1], embed_dim, shape.heads, shape.grid, positions)
            if embed_dim
            else None
        )

    def forward(self, images: Tensor) -> TrunkOutput:  # type: ignore[override]
        """Images (B, 3, H, W), sides of at least 32 -> maps of 4w, 8w, 16w, 32w channels, g and z."""
        maps = super().forward(images)
        return (
            TrunkOutput(tuple(maps))
            if self.attnpool is None
            else TrunkOutput(tuple(maps), *self.attnpool(maps[-1]))
        )
