"""CLIP's modified ResNet, with its attention pool as a fifth output or without (the plain baseline)."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseclip.nets.denseclip.config import Positions
from denseclip.nets.denseclip.positions import table_for
from denseclip.nets.denseclip.shapes import ResNetShape
from denseclip.nets.denseclip.trunk import Trunk, TrunkOutput


class Bottleneck(nn.Module):
    """1x1, 3x3, average pooling in place of a stride, 1x1; the shortcut pools likewise."""

    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, 4 * planes, 1, bias=False), nn.BatchNorm2d(4 * planes)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or channels != 4 * planes:
            parts = (
                ("-1", nn.AvgPool2d(stride)),
                ("0", nn.Conv2d(channels, 4 * planes, 1, bias=False)),
                ("1", nn.BatchNorm2d(4 * planes)),
            )
            self.downsample = nn.Sequential(OrderedDict(parts))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 planes, H / stride, W / stride), odd rows and columns dropped."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.avgpool(F.relu(self.bn2(self.conv2(y))))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


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


class ResNetTrunk(Trunk):
    """Stem of three convolutions, four stages at strides 4 to 32, and with `embed_dim` the attention pool."""

    score_level = 3

    def __init__(self, shape: ResNetShape, embed_dim: int | None, positions: Positions) -> None:
        super().__init__()
        w = shape.width
        self.channels = tuple(4 * w * 2**i for i in range(4))
        self.conv1, self.bn1 = nn.Conv2d(3, w // 2, 3, 2, 1, bias=False), nn.BatchNorm2d(w // 2)
        self.conv2, self.bn2 = nn.Conv2d(w // 2, w // 2, 3, padding=1, bias=False), nn.BatchNorm2d(w // 2)
        self.conv3, self.bn3 = nn.Conv2d(w // 2, w, 3, padding=1, bias=False), nn.BatchNorm2d(w)
        self.layer1 = _stage(w, w, shape.layers[0], 1)
        self.layer2 = _stage(4 * w, 2 * w, shape.layers[1], 2)
        self.layer3 = _stage(8 * w, 4 * w, shape.layers[2], 2)
        self.layer4 = _stage(16 * w, 8 * w, shape.layers[3], 2)
        self.attnpool = (
            AttentionPool(32 * w, embed_dim, shape.heads, shape.grid, positions) if embed_dim else None
        )

    def forward(self, images: Tensor) -> TrunkOutput:
        """Images (B, 3, H, W), sides of at least 32 -> maps of 4w, 8w, 16w, 32w channels, g and z."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.avg_pool2d(F.relu(self.bn3(self.conv3(x))), 2)  # (B, w, H / 4, W / 4)
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        if self.attnpool is None:
            return TrunkOutput(tuple(maps))
        return TrunkOutput(tuple(maps), *self.attnpool(x))


def _stage(channels: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [Bottleneck(4 * planes, planes, 1) for _ in range(blocks - 1)]
    return nn.Sequential(Bottleneck(channels, planes, stride), *rest)
