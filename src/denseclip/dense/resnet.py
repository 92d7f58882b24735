"""CLIP ResNets made dense: the attention pool applied at every position."""

import torch
import torch.nn.functional as F
from torch import Tensor

from denseclip.clip.towers import ResNetTower
from denseclip.dense.options import DenseOptions
from denseclip.dense.vit import mix_values, to_map


class DenseResNet:
    """The arithmetic of a ResNet tower under given options.

    "identity" is MaskCLIP's value path, c_proj(v_proj(x)), without positional embedding (paper, section 3.3).
    Other mixes let the tokens [mean; positions] attend to each other, again without positional embedding;
    "qk" is the attention-pool baseline. `residual` and `mlp` mean nothing here.
    """

    def __init__(self, tower: ResNetTower, options: DenseOptions, *, fused: bool = True) -> None:
        self.tower = tower
        self.options = options
        self.fused = fused

    def __call__(self, images: Tensor, *, keys: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Images (B, 3, H, W), normalised, sides of at least 32.

        Returns features (B, D, h, w) with h = floor(H / stride), not normalised; keys (B, hw, C) if asked for; the
        picture's own vector (B, D) if the options need it.
        """
        x = self.tower.trunk(images, self.options.stride)  # (B, C, h, w)
        grid = (x.shape[-2], x.shape[-1])
        tokens = x.flatten(2).transpose(1, 2)  # (B, hw, C)
        pool = self.tower.pool
        features = to_map(self.pooled(tokens, self.options, grid)[:, -tokens.shape[1] :], grid)
        wanted = F.linear(tokens, pool.k_weight, pool.k_bias) if keys else None
        whole = self.pooled(tokens, DenseOptions(mix="qk"), grid)[:, 0] if self.options.cls_bias else None
        return features, wanted, whole

    def pooled(self, tokens: Tensor, options: DenseOptions, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, hw, C) -> (B, hw, D), or (B, 1 + hw, D) with the mean token first if tokens are mixed."""
        pool = self.tower.pool
        if options.mix != "identity":
            tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)  # (B, 1 + hw, C)
        v = F.linear(tokens, pool.v_weight, pool.v_bias)
        if options.mix != "identity":
            q = F.linear(tokens, pool.q_weight, pool.q_bias)
            k = F.linear(tokens, pool.k_weight, pool.k_bias)
            q, k, v = (
                t.unflatten(2, (pool.heads, -1)).transpose(1, 2) for t in (q, k, v)
            )  # (B, heads, N, d)
            v = mix_values(q, k, v, options, grid, fused=self.fused).transpose(1, 2).flatten(2)
        return F.linear(v, pool.c_weight, pool.c_bias)
