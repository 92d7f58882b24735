"""CLIP ViTs made dense: the transformer written out, with a last block that can be varied."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from denseclip.clip.towers import BlockWeights, NormWeights, ViTTower
from denseclip.dense.options import Compat, DenseOptions

Grid = tuple[int, int]


class DenseViT:
    """The arithmetic of a ViT tower under given options. `fused` uses SDPA, else attention is written out."""

    def __init__(self, tower: ViTTower, options: DenseOptions, compat: Compat, *, fused: bool = True) -> None:
        self.tower = tower
        self.options = options
        self.compat = compat
        self.fused = fused
        self.quick = tower.quick_gelu and not compat.exact_gelu

    def __call__(self, images: Tensor, *, keys: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Images (B, 3, H, W), normalised, any size.

        Returns features (B, D, h, w) with h = ceil(H / patch), not normalised; keys (B, hw, W) if asked for;
        the picture's own vector (B, D) if the options need it.
        """
        x, grid = self.embed(images)  # (B, 1 + hw, W)
        *blocks, last = self.tower.blocks
        for block in blocks:
            x = self.block(x, block)
        y = self.dense_block(x, last, grid)  # (B, 1 + hw, W)
        features = self._project(y[:, 1:])  # (B, hw, D)
        whole = self._whole(self.block(x, last)) if self.options.cls_bias else None
        return to_map(features, grid), self.keys(x, last) if keys else None, whole

    def embed(self, images: Tensor) -> tuple[Tensor, Grid]:
        """Images (B, 3, H, W) -> tokens (B, 1 + hw, W) before the first block, and (h, w)."""
        tower, patch = self.tower, self.tower.patch_size
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % patch, 0, -height % patch))  # zero is the mean colour
        grid = (images.shape[-2] // patch, images.shape[-1] // patch)
        x = tower.patch(images)  # (B, hw, W)
        x = torch.cat([tower.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)  # (B, 1 + hw, W)
        x = x + resize_position(tower.positional_embedding, tower.grid, grid, self.compat.count_rule).to(
            x.dtype
        )
        return (self._norm(tower.ln_pre, x) if tower.ln_pre else x), grid

    def block(self, x: Tensor, weights: BlockWeights) -> Tensor:
        """An ordinary block on (B, N, W)."""
        q, k, v = self._qkv(x, weights)
        attended = F.scaled_dot_product_attention(q, k, v) if self.fused else attend(q, k, v)
        x = x + _scaled(self._out(attended, weights), weights.ls_1)
        return x + self._mlp(x, weights)

    def dense_block(self, x: Tensor, weights: BlockWeights, grid: Grid) -> Tensor:
        """The last block under the options, on (B, 1 + hw, W)."""
        q, k, v = self._qkv(x, weights)  # (B, heads, N, W / heads)
        mixed = mix_values(q, k, v, self.options, grid, fused=self.fused)
        y = _scaled(self._out(mixed, weights), weights.ls_1)  # (B, N, W)
        y = x + y if self.options.residual else y
        return y + self._mlp(y, weights) if self.options.mlp else y

    def keys(self, x: Tensor, weights: BlockWeights) -> Tensor:
        """Keys of the last block for key smoothing, (B, hw, W); its input is x (B, 1 + hw, W)."""
        width = self.tower.width
        y = self._norm(weights.ln_1, x)[:, 1:]
        k = F.linear(y, weights.in_proj_weight[width : 2 * width], weights.in_proj_bias[width : 2 * width])
        return F.linear(k, weights.out_weight, weights.out_bias) if self.compat.keys_projected else k

    def _qkv(self, x: Tensor, weights: BlockWeights) -> tuple[Tensor, Tensor, Tensor]:
        y = F.linear(self._norm(weights.ln_1, x), weights.in_proj_weight, weights.in_proj_bias)  # (B, N, 3W)
        q, k, v = y.view(*x.shape[:2], 3, self.tower.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v  # each (B, heads, N, W / heads)

    def _out(self, x: Tensor, weights: BlockWeights) -> Tensor:
        """(B, heads, N, W / heads) -> (B, N, W)."""
        return F.linear(x.transpose(1, 2).flatten(2), weights.out_weight, weights.out_bias)

    def _mlp(self, x: Tensor, weights: BlockWeights) -> Tensor:
        y = F.linear(self._norm(weights.ln_2, x), weights.fc_weight, weights.fc_bias)  # (B, N, M)
        y = y * torch.sigmoid(1.702 * y) if self.quick else F.gelu(y)
        return _scaled(F.linear(y, weights.proj_weight, weights.proj_bias), weights.ls_2)

    def _norm(self, norm: NormWeights, x: Tensor) -> Tensor:
        return F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, self.compat.eps or norm.eps)

    def _project(self, x: Tensor) -> Tensor:
        return self._norm(self.tower.ln_post, x) @ self.tower.proj

    def _whole(self, x: Tensor) -> Tensor:
        """The picture's vector (B, D), pooled as in training."""
        projected = self._project(x)  # (B, N, D)
        return projected[:, 0] if self.tower.pool == "tok" else projected[:, 1:].mean(1)


def mix_values(
    q: Tensor, k: Tensor, v: Tensor, options: DenseOptions, grid: Grid | None, *, fused: bool
) -> Tensor:
    """Values (B, heads, N, d) mixed over tokens as the options say; token 0 stands for the whole picture."""
    if options.mix == "identity":
        return v
    bias = neighbourhood(grid, options.sigma, v) if options.sigma and grid else None
    pairs = {"qk": [(q, k)], "qq": [(q, q)], "kk": [(k, k)], "qq+kk": [(q, q), (k, k)]}[options.mix]
    if not fused:
        return torch.stack([attend(a, b, v, bias) for a, b in pairs]).sum(0)
    parts = [F.scaled_dot_product_attention(a, b, v, attn_mask=bias) for a, b in pairs]
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Soft-max attention written out: the reference of the fused path. (B, heads, N, d) each; bias (N, N)."""
    logits = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, heads, N, N)
    return (logits if bias is None else logits + bias).softmax(-1) @ v


def neighbourhood(grid: Grid, sigma: float, like: Tensor) -> Tensor:
    """exp(-|p_i - p_j|^2 / (2 sigma^2)) between patches, 0 to and from token 0; (1 + hw, 1 + hw). NACLIP, eq. 5."""
    y = torch.arange(grid[0], device=like.device, dtype=torch.float32)
    x = torch.arange(grid[1], device=like.device, dtype=torch.float32)
    down = torch.exp(-((y[:, None] - y) ** 2) / (2 * sigma**2))  # (h, h)
    across = torch.exp(-((x[:, None] - x) ** 2) / (2 * sigma**2))  # (w, w)
    return F.pad(torch.kron(down, across), (1, 0, 1, 0)).to(like.dtype)


def resize_position(table: Tensor, native: Grid, grid: Grid, count_rule: bool) -> Tensor:
    """Position table (1 + g*g, W) for another grid: (1 + hw, W), bicubic, row 0 kept.

    `count_rule`: the official code's rule, which leaves the table alone whenever the number of tokens agrees,
    whatever the shape, and never antialiases.
    """
    if grid == native or (count_rule and grid[0] * grid[1] == native[0] * native[1]):
        return table
    spatial = table[1:].float().T.reshape(1, -1, *native)  # (1, W, g, g)
    spatial = F.interpolate(spatial, grid, mode="bicubic", align_corners=False, antialias=not count_rule)
    return torch.cat([table[:1].float(), spatial.flatten(2)[0].T])


def to_map(tokens: Tensor, grid: Grid) -> Tensor:
    """(B, hw, D) -> (B, D, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale
