"""SigLIP and SigLIP 2: patches that one learned query attends to (Zhai et al., ICCV 2023; Tschannen et al., 2025)."""

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseclip.clip.towers import VisionTransformer
from denseclip.clip.transformer import Attention, Grid, Mlp, resize_positions

EPS = 1e-6
TIMM_NAME = re.compile(r"vit_(base|large|so400m|giantopt)_patch(\d+)_siglip_(\d+)$")
SIZES = {  # by timm's names: width, blocks, heads, width of MLPs
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "giantopt": (1536, 40, 16, 6144),
}
TANH = re.compile(
    r"base_patch32|giantopt|large_patch16_siglip_512|so400m_patch16"
)  # of which timm approximates GELU


class MapHead(nn.Module):
    """What makes one vector of all patches: a learned query that attends to them, then an MLP."""

    def __init__(self, width: int, heads: int, hidden: int, *, tanh: bool, eps: float) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.attn = Attention(width, heads)
        self.ln = nn.LayerNorm(width, eps)
        self.mlp = Mlp(width, hidden, quick_gelu=False, tanh=tanh)

    def forward(self, x: Tensor) -> Tensor:
        """Patches (B, N, W) -> (B, W)."""
        q = self.attn.qkv(self.probe.to(x.dtype).expand(len(x), -1, -1))[0]
        _, k, v = self.attn.qkv(x)
        return self._end(self.attn.project(F.scaled_dot_product_attention(q, k, v)))[:, 0]

    def dense(self, x: Tensor) -> Tensor:
        """Patches (..., W) -> what the query would take if it attended to that patch alone, (..., W)."""
        return self._end(self.attn.out_proj(self.attn.values(x)))

    def _end(self, y: Tensor) -> Tensor:
        return y + self.mlp(self.ln(y))


class SiglipTower(VisionTransformer):
    """A ViT without class token and projection, but with a `MapHead`."""

    prefix = 0

    def __init__(self, *, grid: int, width: int, heads: int, hidden: int, tanh: bool, **options: Any) -> None:
        shape: dict[str, Any] = {"grid": grid, "width": width, "heads": heads, "hidden": hidden}
        super().__init__(**shape, **options, tanh=tanh, embed_dim=None, quick_gelu=False, norm_first=False)
        del self.class_embedding
        self.conv1 = nn.Conv2d(3, width, self.patch_size, self.patch_size)
        self.positional_embedding = nn.Parameter(torch.zeros(grid * grid, width))
        self.ln_post = nn.LayerNorm(width, options.get("eps", EPS))
        self.head = MapHead(width, heads, hidden, tanh=tanh, eps=options.get("eps", EPS))

    def embed(self, images: Tensor, table: Any = None) -> tuple[Tensor, Grid]:  # noqa: ANN401
        """Images (B, 3, H, W), normalized, of any size -> patches (B, hw, W) before the first block, and (h, w)."""
        assert table is None, "compat is refused for SigLIP"
        x = self.conv1(images)  # (B, W, h, w)
        grid = (x.shape[2], x.shape[3])
        rows = F.pad(self.positional_embedding, (0, 0, 1, 0))  # for the class token that there is not
        return x.flatten(2).mT + resize_positions(rows, grid)[1:].to(x.dtype), grid

    def project(self, x: Tensor) -> Tensor:
        """Patches after the last block, (..., W) -> the head's values of each, (..., W)."""
        return self.head.dense(self.ln_post(x))

    def pooled(self, x: Tensor) -> Tensor:
        """Patches after the last block, (B, hw, W) -> the whole picture's (B, W), as it was trained."""
        return self.head(self.ln_post(x))


def is_siglip(vision: Mapping[str, Any]) -> bool:
    """Whether a `vision_cfg` of open_clip names one of timm's SigLIP towers, with its pooling."""
    named = TIMM_NAME.match(vision.get("timm_model_name") or "")
    return bool(named) and vision.get("timm_pool") == "map"


def plain_vision(vision: Mapping[str, Any], state: Mapping[str, Tensor] | None) -> dict[str, Any]:
    """A `vision_cfg` that names a SigLIP tower, in numbers: those of the weights if there are any, or of the name."""
    name = str(vision["timm_model_name"])
    match = TIMM_NAME.match(name)
    assert match is not None
    width, layers, heads, hidden = SIZES[match[1]]
    plain = {"patch_size": int(match[2]), "image_size": vision.get("image_size", int(match[3]))}
    if state is not None and "visual.conv1.weight" in state and "visual.positional_embedding" in state:
        seen, _, _, patch = state["visual.conv1.weight"].shape
        if seen != width:
            width, heads = seen, max(1, seen // 64)
        plain = {"patch_size": patch, "image_size": isqrt(len(state["visual.positional_embedding"])) * patch}
        blocks = {key.split(".")[3] for key in state if key.startswith("visual.transformer.resblocks.")}
        layers = len(blocks) or layers
        hidden = len(state.get("visual.transformer.resblocks.0.mlp.c_fc.bias", range(hidden)))
    plain |= {"width": width, "layers": layers, "head_width": vision.get("head_width", width // heads)}
    act = {"act_kwargs": {"approximate": "tanh"}} if TANH.search(name) else {}
    return (
        plain | act | {"mlp_ratio": (hidden + 0.5) / width, "norm_kwargs": {"eps": EPS}, "pool_type": "map"}
    )
