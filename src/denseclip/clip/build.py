"""The towers that a configuration in open_clip's form describes."""

from collections.abc import Mapping
from typing import Any

from denseclip.clip.siglip import SiglipTower
from denseclip.clip.towers import ResNet, Towers, VisionTransformer
from denseclip.clip.transformer import TextTransformer


def build_towers(config: Mapping[str, Any]) -> Towers:
    """Networks with initial values for a configuration in open_clip's form that `config.check` let pass."""
    vision, text, dim = config["vision_cfg"], config["text_cfg"], config["embed_dim"]
    quick = bool(config.get("quick_gelu", False))
    return Towers(_image_tower(vision, dim, quick), text_tower(text, dim, quick))


def is_resnet(cfg: Mapping[str, Any]) -> bool:
    """Whether a `vision_cfg` is of a ResNet."""
    return isinstance(cfg.get("layers", 12), list | tuple)


def resnet_sizes(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `ResNet` for a `vision_cfg`."""
    width, head = cfg.get("width", 64), cfg.get("head_width", 64)
    grid = cfg.get("image_size", 224) // 32
    return {"layers": cfg["layers"], "width": width, "heads": 32 * width // head, "grid": grid}


def vit_sizes(cfg: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    """The arguments of `VisionTransformer` for a `vision_cfg`, without its projection."""
    width, patch = cfg.get("width", 768), cfg.get("patch_size", 16)
    return {
        "patch": patch,
        "grid": cfg.get("image_size", 224) // patch,
        "width": width,
        "layers": cfg.get("layers", 12),
        "heads": width // cfg.get("head_width", 64),
        "hidden": int(width * cfg.get("mlp_ratio", 4.0)),
        "tanh": _tanh(cfg),
        "eps": (cfg.get("norm_kwargs") or {}).get("eps", 1e-5),
        "quick_gelu": quick,
        "pool": cfg.get("pool_type", "tok"),
        "norm_first": not cfg.get("no_ln_pre", False),
        "norm_after_pool": bool(cfg.get("final_ln_after_pool", False)),
        "layer_scale": cfg.get("ls_init_value") is not None,
    }


def _image_tower(cfg: Mapping[str, Any], dim: int, quick: bool) -> ResNet | VisionTransformer:
    if is_resnet(cfg):
        return ResNet(**resnet_sizes(cfg), embed_dim=dim)
    sizes = vit_sizes(cfg, quick)
    if cfg.get("pool_type") == "map":
        names = ("patch", "grid", "width", "layers", "heads", "hidden", "tanh", "eps")
        return SiglipTower(**{name: sizes[name] for name in names})
    return VisionTransformer(**sizes, embed_dim=dim)


def _tanh(cfg: Mapping[str, Any]) -> bool:
    return (cfg.get("act_kwargs") or {}).get("approximate") == "tanh"


def text_tower(cfg: Mapping[str, Any], dim: int, quick: bool) -> TextTransformer:
    """A text tower with initial values for a `text_cfg`."""
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
