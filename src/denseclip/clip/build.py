"""The towers that a configuration in open_clip's form describes."""

from collections.abc import Mapping
from typing import Any

from denseclip.clip.model import ResNet, Towers, VisionTransformer
from denseclip.clip.siglip import SiglipTower
from denseclip.clip.transformer import TextTransformer


def build_towers(config: Mapping[str, Any]) -> Towers:
    """Networks with initial values for a configuration in open_clip's form that `config.check` let pass."""
    vision, text, dim = config["vision_cfg"], config["text_cfg"], config["embed_dim"]
    quick = bool(config.get("quick_gelu", False))
    return Towers(_image_tower(vision, dim, quick), _text_tower(text, dim, quick))


def _image_tower(cfg: Mapping[str, Any], dim: int, quick: bool) -> ResNet | VisionTransformer:
    layers, size, head = cfg.get("layers", 12), cfg.get("image_size", 224), cfg.get("head_width", 64)
    if isinstance(layers, list | tuple):
        width = cfg.get("width", 64)
        return ResNet(layers, width, embed_dim=dim, heads=32 * width // head, grid=size // 32)
    width, patch = cfg.get("width", 768), cfg.get("patch_size", 16)
    shape: dict[str, Any] = {"patch": patch, "grid": size // patch, "width": width, "layers": layers}
    shape |= {"heads": width // head, "hidden": int(width * cfg.get("mlp_ratio", 4.0))}
    shape |= {"tanh": _tanh(cfg), "eps": (cfg.get("norm_kwargs") or {}).get("eps", 1e-5)}
    if cfg.get("pool_type") == "map":
        return SiglipTower(**shape)
    return VisionTransformer(
        **shape,
        embed_dim=dim,
        quick_gelu=quick,
        pool=cfg.get("pool_type", "tok"),
        norm_first=not cfg.get("no_ln_pre", False),
        norm_after_pool=bool(cfg.get("final_ln_after_pool", False)),
        layer_scale=cfg.get("ls_init_value") is not None,
    )


def _tanh(cfg: Mapping[str, Any]) -> bool:
    return (cfg.get("act_kwargs") or {}).get("approximate") == "tanh"


def _text_tower(cfg: Mapping[str, Any], dim: int, quick: bool) -> TextTransformer:
    width = cfg.get("width", 512)
    projection = (
        "none" if cfg.get("proj_type", "linear") == "none" else "linear" if cfg.get("proj_bias") else "matrix"
    )
    return TextTransformer(
        vocabulary=cfg.get("vocab_size", 49408),
        context_length=cfg.get("context_length", 77),
        width=width,
        layers=cfg.get("layers", 12),
        heads=cfg.get("heads", 8),
        hidden=int(width * cfg.get("mlp_ratio", 4.0)),
        embed_dim=dim,
        quick_gelu=quick,
        tanh=_tanh(cfg),
        causal=not cfg.get("no_causal_mask", False),
        pool=cfg.get("pool_type", "argmax"),
        eos=cfg.get("eos_id", 2),
        layer_scale=cfg.get("ls_init_value") is not None,
        eps=(cfg.get("norm_kwargs") or {}).get("eps", 1e-5),
        projection=projection,
    )
