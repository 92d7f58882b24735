"""The dense last block, one function for each kind of tower, and the features that it gives."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from denseclip.clip import Clip, ImageStats
from denseclip.clip.towers import ResNet, VisionTransformer, to_map, with_mean
from denseclip.clip.transformer import Block, Grid, resize_positions
from denseclip.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from denseclip.errors import UserError
from denseclip.segment.calibration import feedback, feedback_labels, sc_clip, with_attention
from denseclip.segment.proxy import Dino, Proxy, load_proxy, margins, proxy_mixed
from denseclip.segment.settings import Compat, DenseOptions


class Dense(NamedTuple):
    """What a tower says of images (B, 3, H, W).

    features: (B, D, h, w), not normalized. keys: (B, hw, E) of key smoothing, if asked for. global_feature: the whole
    pictures' (B, D), if the options need it. tokens, attention: inputs (B, 1 + hw, W) of the last block, and middle
    blocks' attention (B, heads, 1 + hw, 1 + hw), for a second pass.
    """

    features: Tensor
    keys: Tensor | None
    global_feature: Tensor | None
    tokens: Tensor | None = None
    attention: Tensor | None = None


def dense_vit(
    vit: VisionTransformer,
    images: Tensor,
    options: DenseOptions,
    compat: Compat,
    *,
    keys: bool,
    proxy: Proxy | None = None,
    raw: bool = False,
) -> Dense:
    """A ViT on images (B, 3, H, W), normalized, of any size; h = ceil(H / patch), or the proxy tower's."""
    images = images if compat.cut else _padded(images, vit.patch_size)
    table = partial(_table, vit, tenth=compat.tenth) if compat.count_rule else None
    x, grid = vit.embed(images, table)  # (B, 1 + hw, W)
    last, cells, attention = vit.transformer.blocks[-1], grid, None
    if options.mix == "sc-clip":
        y, x = sc_clip(vit.transformer.blocks, x, grid)  # (B, hw, W)
    else:
        if options.rcs:
            x, attention = with_attention(vit.transformer.blocks, x)
        else:
            for block in vit.transformer.blocks[:-1]:
                x = block(x)
        if proxy is not None:
            shares, cells = proxy.shares(images)
            y = proxy_mixed(last, x, grid, shares, cells)
        else:
            pooled = vit.prefix == 0 and options.mix == "identity"  # the head is what is made dense
            y = last(x) if pooled else dense_block(last, x, options, grid, attention)[:, vit.prefix :]
    features = to_map(y if raw else vit.project(y), cells)
    asked = _keys(last, x[:, vit.prefix :], projected=compat.keys_projected) if keys else None
    whole = vit.pooled(last(x)) if options.cls_bias else None
    return Dense(features, asked, whole, x if options.sfr else None, attention if options.sfr else None)


def _padded(images: Tensor, patch: int) -> Tensor:
    """Images (B, 3, H, W) to whole patches; zero is the mean color."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % patch, 0, -height % patch))


def dense_block(
    block: Block,
    x: Tensor,
    options: DenseOptions,
    grid: Grid,
    attention: Tensor | None = None,
    feedback: Tensor | None = None,
) -> Tensor:
    """The last block under the options, on tokens (B, 1 + hw, W); attention, feedback: as in `corrected_mix`."""
    q, k, v = block.attn.qkv(block.ln_1(x))
    if attention is None and feedback is None:
        mixed = mix_values(q, k, v, options, grid)  # (B, heads, N, W / heads)
    else:
        mixed = corrected_mix(q, k, v, options, grid, attention, feedback)
    y = block.ls_1(block.attn.project(mixed))  # (B, N, W)
    y = x + y if options.residual else y
    return y + block.ls_2(block.mlp(block.ln_2(y))) if options.mlp else y


def dense_resnet(resnet: ResNet, images: Tensor, options: DenseOptions, *, keys: bool) -> Dense:
    """A ResNet on images (B, 3, H, W), normalized, sides of at least 32; h = floor(H / stride).

    There is no position table in any of it (paper, section 3.3); `residual` and `mlp` mean nothing here.
    """
    x = resnet.last_map(images, options.stride)  # (B, C, h, w)
    grid = (x.shape[2], x.shape[3])
    tokens, pool = x.flatten(2).transpose(1, 2), resnet.pool  # (B, hw, C)
    if options.mix == "identity":
        features = pool.c_proj(pool.v_proj(tokens))  # (B, hw, D)
    else:
        features = _mixed_pool(resnet, tokens, options, grid)[:, 1:]
    asked = pool.k_proj(tokens) if keys else None
    whole = _mixed_pool(resnet, tokens, DenseOptions(mix="qk"), grid)[:, 0] if options.cls_bias else None
    return Dense(to_map(features, grid), asked, whole)


def _mixed_pool(resnet: ResNet, tokens: Tensor, options: DenseOptions, grid: Grid) -> Tensor:
    """[mean; cells] (B, hw, C) attend to each other -> (B, 1 + hw, D)."""
    q, k, v = resnet.pool.qkv(with_mean(tokens))
    return resnet.pool.project(mix_values(q, k, v, options, grid))


def mix_values(q: Tensor, k: Tensor, v: Tensor, options: DenseOptions, grid: Grid) -> Tensor:
    """Values (B, heads, 1 + hw, d) mixed over tokens as the options say; token 0 stands for the whole picture."""
    if options.mix == "identity":
        return v
    bias = neighborhood(grid, options.sigma, v) if options.sigma else None
    bias = bias[-v.shape[2] :, -v.shape[2] :] if bias is not None else None  # some have no token 0
    pairs = {"qk": [(q, k)], "qq": [(q, q)], "kk": [(k, k)], "qq+kk": [(q, q), (k, k)]}[options.mix]
    parts = [F.scaled_dot_product_attention(a, b, v, attn_mask=bias) for a, b in pairs]
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def corrected_mix(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: DenseOptions,
    grid: Grid,
    attention: Tensor | None,
    feedback: Tensor | None,
) -> Tensor:
    """`mix_values` with ResCLIP's corrections, if given: the logits by SFR, the attention by RCS.

    attention: (B, heads, N, N) of middle blocks. feedback: (B, N, N) float16, between positions.
    """
    pairs = {"qk": [(q, k)], "qq": [(q, q)], "kk": [(k, k)], "qq+kk": [(q, q), (k, k)]}[options.mix]
    total: Tensor | None = None
    for a, b in pairs:
        logits = a @ b.mT * q.shape[-1] ** -0.5  # (B, heads, N, N)
        if feedback is not None and options.sfr:
            factor, share = options.sfr
            logits = factor * ((1 - share) * logits + (share * feedback[:, None]).to(logits.dtype))
        if options.sigma:
            logits = logits + neighborhood(grid, options.sigma, v)
        total = logits.softmax(-1) if total is None else total + logits.softmax(-1)
    assert total is not None
    if attention is not None and options.rcs:
        factor, share = options.rcs
        total = factor * ((1 - share) * total + share * attention)
    return total @ v


def neighborhood(grid: Grid, sigma: float, like: Tensor) -> Tensor:
    """exp(-|p_i - p_j|^2 / (2 sigma^2)) between patches, 0 to and from token 0; (1 + hw, 1 + hw). NACLIP, eq. 5."""
    y = torch.arange(grid[0], device=like.device, dtype=torch.float32)
    x = torch.arange(grid[1], device=like.device, dtype=torch.float32)
    down = torch.exp(-((y[:, None] - y) ** 2) / (2 * sigma**2))  # (h, h)
    across = torch.exp(-((x[:, None] - x) ** 2) / (2 * sigma**2))  # (w, w)
    both = down[:, None, :, None] * across[:, None, :]  # (h, w, h, w)
    return F.pad(both.flatten(2).flatten(0, 1), (1, 0, 1, 0)).to(like.dtype)


def _table(vit: VisionTransformer, grid: Grid, *, tenth: bool) -> Tensor:
    """The official MaskCLIP rule: the table as it is if the number of tokens agrees, whatever the shape."""
    table, (height, width) = vit.positional_embedding, vit.grid
    same = grid[0] * grid[1] == height * width
    offset = 0.1 if tenth else 0.0
    return table if same else resize_positions(table, grid, antialias=False, scale_offset=offset)


def _keys(block: Block, x: Tensor, *, projected: bool) -> Tensor:
    """Keys of the last block for key smoothing, of its inputs (B, hw, W)."""
    k = block.attn.keys(block.ln_1(x))
    return block.attn.out_proj(k) if projected else k


@dataclass(frozen=True)
class DenseFeatures:
    """Features of B network inputs, float32.

    map: (B, D, h, w), unit vectors for a CLIP. keys: (B, hw, E), for key smoothing. whole: (B, D) unit vectors of
    the whole inputs. logits: (B, K, h, w), what a trained model says of its own classes. inputs, tokens, attention:
    what a second pass of the last block needs, see `Dense`.
    """

    map: Tensor
    keys: Tensor | None = None
    whole: Tensor | None = None
    logits: Tensor | None = None
    inputs: Tensor | None = None
    tokens: Tensor | None = None
    attention: Tensor | None = None

    def split(self, size: int) -> list["DenseFeatures"]:
        """The features of every `size` inputs in a row; views."""
        starts = range(0, len(self.map), size)
        return [self._map(partial(torch.narrow, dim=0, start=start, length=size)) for start in starts]

    def part(self, index: int) -> "DenseFeatures":
        """The features of one input, with a batch axis of 1; views."""
        return self._map(lambda one: one[index : index + 1])

    def clone(self) -> "DenseFeatures":
        """A copy."""
        return self._map(Tensor.clone)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "DenseFeatures":
        parts = [getattr(self, part.name) for part in fields(self)]
        return DenseFeatures(*(None if one is None else change(one) for one in parts))  # type: ignore[arg-type]


class DenseEncoder:
    """A CLIP's image tower made dense under given options."""

    def __init__(
        self,
        clip: Clip,
        options: DenseOptions | None = None,
        compat: Compat | None = None,
    ) -> None:
        self.clip = clip
        self.options = options or DenseOptions()
        self.compat = compat or Compat()
        self._proxy: Proxy | None = None
        if isinstance(clip.visual, ResNet):
            if self.options.vit_only:
                raise UserError(f"{clip.name} is a ResNet, and this preset is for ViTs; choose maskclip")
            self.stride: int = self.options.stride
            return
        if self.options.stride != 32:
            raise UserError(
                f"{clip.name} is a ViT, its map has one cell a patch; leave out stride, or take a ResNet"
            )
        self.stride = clip.visual.patch_size
        if clip.visual.prefix == 0 and (self.options.vit_only or self.compat != Compat()):
            raise UserError(
                f"{clip.name} has no class token, as this preset or compat needs; choose maskclip, sclip, clearclip "
                "or naclip, without compat"
            )
        quick = clip.quick_gelu and not self.compat.exact_gelu
        self._vit = clip.visual.variant(quick_gelu=quick, eps=self.compat.eps)
        if self.options.mix == "proxy":
            self._proxy = Proxy(_tower(self.options, clip), self.stats)
            self.stride = self._proxy.multiple(self.stride, official=False)

    @property
    def stats(self) -> ImageStats:
        """How pixels in 0..1 are normalized before `encode`."""
        return ImageStats(IMAGENET_MEAN, IMAGENET_STD) if self.compat.imagenet_stats else self.clip.stats

    @property
    def patch(self) -> int:
        """Pixels on the side of a ViT's patch."""
        return self._vit.patch_size

    def finish(self, maps: Tensor) -> DenseFeatures:
        """Raw maps (B, W, h, w) through the last norm and the projection."""
        features = self._vit.project(maps.to(self.clip.dtype).flatten(2).mT).float()  # (B, hw, D)
        return DenseFeatures(to_map(F.normalize(features, dim=-1), (maps.shape[2], maps.shape[3])))

    def encode(
        self, images: Tensor, *, keys: bool = False, unit: bool = True, raw: bool = False
    ) -> DenseFeatures:
        """Images (B, 3, H, W), normalized by `stats`, of any size -> dense features.

        unit: divide every position by its norm. raw: without the last norm and the projection, see `finish`.

        The map is ceil(H / patch) high for ViTs, floor(H / stride) for ResNets, whose sides must be at least 32.
        Positions are divided by their norm without an epsilon, as in the official code.
        """
        images = images.to(self.clip.visual.conv1.weight)
        padded = F.pad(images, self._margins(images)) if self._proxy else images
        found = self._run(padded, keys=keys, raw=raw)
        features, whole = found.features.float(), found.global_feature  # (B, D, h, w)
        return DenseFeatures(
            features / features.norm(dim=1, keepdim=True) if unit and not raw else features,
            None if found.keys is None else found.keys.float(),
            None if whole is None else F.normalize(whole.float(), dim=-1),
            inputs=images if self.options.sfr or any(self._margins(images)) else None,
            tokens=found.tokens,
            attention=found.attention,
        )

    def scores(self, features: DenseFeatures, matrix: Tensor) -> Tensor:
        """Cosines (B, P, h, w) of every position with the unit rows of `matrix` (P, D), minus the picture's own.

        With SFR the last block is run a second time, for these words.
        """
        scores = self._cosines(features, matrix)
        if self.options.sfr:
            return self._cosines(self._second(features, scores), matrix)
        if self._proxy is not None and features.inputs is not None:  # cut the padding off
            left, right, top, bottom = self._margins(features.inputs)
            height, width = features.inputs.shape[2:]
            full = F.interpolate(scores, (top + height + bottom, left + width + right), mode="bilinear")
            return full[:, :, top : top + height, left : left + width]
        return scores

    def _margins(self, images: Tensor) -> tuple[int, int, int, int]:
        if self._proxy is None:
            return 0, 0, 0, 0
        multiple = self._proxy.multiple(self._vit.patch_size, official=self.compat.pad_56)
        return margins((images.shape[2], images.shape[3]), multiple)

    def _second(self, features: DenseFeatures, scores: Tensor) -> DenseFeatures:
        """The features of ResCLIP's second pass, by the first one's `scores` (B, P, h, w)."""
        assert features.inputs is not None and features.tokens is not None
        patch, grid = self._vit.patch_size, (scores.shape[2], scores.shape[3])
        images = features.inputs if self.compat.cut else _padded(features.inputs, patch)
        _, labels = feedback_labels(scores, images.float(), patch, self.options.feedback_threshold)
        matrix = torch.stack([feedback(one) for one in labels])  # (B, 1 + hw, 1 + hw)
        last = self._vit.transformer.blocks[-1]
        y = dense_block(last, features.tokens, self.options, grid, features.attention, matrix)
        return replace(features, map=F.normalize(to_map(self._vit.project(y[:, 1:]), grid).float(), dim=1))

    def _cosines(self, features: DenseFeatures, matrix: Tensor) -> Tensor:
        if features.map.is_cuda:  # decoded fastest where the classes of a position lie next to each other
            scores = F.linear(features.map.permute(0, 2, 3, 1), matrix).permute(0, 3, 1, 2)
        else:
            scores = torch.einsum("bdhw,pd->bphw", features.map, matrix)
        if features.whole is not None:
            own = features.whole @ matrix.T  # (B, P)
            scores = scores - self.options.cls_bias * own[:, :, None, None]
        return scores

    def _run(self, images: Tensor, *, keys: bool, raw: bool) -> Dense:
        if isinstance(self.clip.visual, ResNet):
            images = images.contiguous(memory_format=torch.channels_last)
            return dense_resnet(self.clip.visual, images, self.options, keys=keys)
        return dense_vit(self._vit, images, self.options, self.compat, keys=keys, proxy=self._proxy, raw=raw)


@lru_cache(maxsize=2)
def _read_tower(
    source: str, heads: int | None, device: torch.device, dtype: torch.dtype, changed: int
) -> Dino:
    return load_proxy(source, heads=heads).to(device, dtype)


def _tower(options: DenseOptions, clip: Clip) -> Dino:
    if options.proxy is None:
        raise UserError("preset proxyclip needs a DINO or DINOv2 tower; give proxy: a file or timm:NAME")
    file = Path(options.proxy)
    changed = file.stat().st_mtime_ns if file.is_file() else 0
    return _read_tower(options.proxy, options.proxy_heads, clip.device, clip.dtype, changed)
