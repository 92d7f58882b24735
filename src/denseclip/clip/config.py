"""Model configurations in open_clip's form: checked, completed, or read off the weights."""

from collections.abc import Mapping
from copy import deepcopy
from math import isqrt
from typing import Any

from torch import Tensor

from denseclip.errors import UserError

Config = dict[str, Any]
SUPPORTED = "CLIP's ResNets and plain ViTs work, `denseclip models` lists them"
SECTIONS = ("vision_cfg", "text_cfg")
REQUIRED = ("embed_dim", *SECTIONS)
LOSS_KEYS = {"init_logit_scale", "init_logit_bias", "nonscalar_logit_scale"}  # nothing to the towers
KNOWN = {*REQUIRED, *LOSS_KEYS, "quick_gelu", "custom_text", "multimodal_cfg"}
SHARED_KEYS = {"width", "layers", "mlp_ratio", "ls_init_value", "pool_type", "final_ln_after_pool", "output_tokens",
               "act_kwargs", "norm_kwargs", "block_type"}  # fmt: skip
BLOCK_OPTIONS = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
VISION_KEYS = SHARED_KEYS | {*BLOCK_OPTIONS, "head_width", "patch_size", "image_size", "patch_dropout",
                             "attentional_pool", "attn_pooler_queries", "attn_pooler_heads", "no_ln_pre",
                             "pos_embed_type", "timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj",
                             "timm_proj_bias", "timm_drop", "timm_drop_path"}  # fmt: skip
TEXT_KEYS = SHARED_KEYS | {*BLOCK_OPTIONS, "context_length", "vocab_size", "hf_tokenizer_name", "tokenizer_mode",
                           "tokenizer_kwargs", "heads", "embed_cls", "pad_id", "eos_id", "no_causal_mask",
                           "proj_bias", "proj_type", "hf_model_name", "hf_model_pretrained", "hf_proj_type",
                           "hf_pooler_type"}  # fmt: skip


def unsupported(config: Mapping[str, Any]) -> str | None:
    """Why the towers of an open_clip model configuration cannot be used here, or None."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if vision.get("timm_model_name"):
        return f"its image tower is the timm model {vision['timm_model_name']}"
    if "multimodal_cfg" in config or vision.get("attentional_pool") or text.get("embed_cls"):
        return "it is a CoCa model with attentional pooling"
    if text.get("hf_model_name"):
        return f"its text tower is the transformers model {text['hf_model_name']}"
    if vision.get("act_kwargs") or any(part.get(o) for part in (vision, text) for o in BLOCK_OPTIONS):
        return "its transformer blocks are not CLIP's"
    if any(_is_oblong(vision.get(side)) for side in ("image_size", "patch_size")):
        return "its image or patch size is not square"
    return "it has no single image vector" if vision.get("pool_type") == "none" else None


def check(config: Mapping[str, Any], source: str) -> Config:
    """A complete copy of an open_clip model configuration; UserError when it is not one or not supported."""
    missing = [key for key in REQUIRED if key not in config]
    if missing:
        raise UserError(
            f"{source}: the configuration lacks {', '.join(missing)}; give all of {', '.join(REQUIRED)} "
            "as in open_clip's model configs"
        )
    _known_keys(config, source)
    reason = unsupported(config)
    if reason:
        raise UserError(f"{source}: {reason}; {SUPPORTED}")
    checked = deepcopy(dict(config))
    checked["quick_gelu"] = bool(config.get("quick_gelu", False))
    vision, text = checked["vision_cfg"], checked["text_cfg"]
    for side in ("image_size", "patch_size"):
        if isinstance(vision.get(side), list | tuple):
            vision[side] = vision[side][0]
    _heads_divide(vision, text, source)
    return checked


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Config:
    """`base` with `changes` laid over it, section by section."""
    merged = {**base, **changes}
    for section in SECTIONS:
        parts = base.get(section, {}), changes.get(section, {})
        if not all(isinstance(part, Mapping) for part in parts):
            raise UserError(f"config: {section} must be a dict, as in open_clip's model configs")
        merged[section] = {**parts[0], **parts[1]}
    return merged


class _Shapes(dict[str, tuple[int, ...]]):
    """Shapes by name; a missing name is the user's error."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], source: str) -> None:
        super().__init__(shapes)
        self.source = source

    def __missing__(self, name: str) -> tuple[int, ...]:
        if any(key.startswith("visual.trunk.") for key in self):
            raise UserError(f"{self.source}: its image tower is a timm model; {SUPPORTED}")
        raise UserError(
            f"{self.source}: no {name} among its {len(self)} tensors; "
            "pass a complete CLIP checkpoint (image and text tower), or its model config"
        )


def infer(state: Mapping[str, Tensor], source: str) -> Config:
    """The configuration that weights in open_clip's naming (`visual.`, `text.`) imply; heads are 64 wide.

    `quick_gelu` cannot be seen in the weights and is left out. Source: OpenAI's `build_model`.
    """
    shapes = _Shapes({name: tuple(tensor.shape) for name, tensor in state.items()}, source)
    try:
        return _inferred(shapes)
    except UserError:
        raise
    except (ValueError, IndexError, ZeroDivisionError) as error:  # say, a matrix in place of a convolution
        raise UserError(
            f"{source}: its tensors do not have the shapes of a CLIP; pass a complete CLIP checkpoint"
        ) from error


def _inferred(shapes: _Shapes) -> Config:
    return {
        "embed_dim": shapes["text.text_projection"][1],
        "vision_cfg": _vit(shapes) if "visual.class_embedding" in shapes else _resnet(shapes),
        "text_cfg": {
            "context_length": shapes["text.positional_embedding"][0],
            "vocab_size": shapes["text.token_embedding.weight"][0],
            "width": shapes["text.ln_final.weight"][0],
            "heads": max(1, shapes["text.ln_final.weight"][0] // 64),
            **_blocks(shapes, "text.transformer.resblocks"),
        },
    }


def _vit(shapes: _Shapes) -> Config:
    width, _, _, patch = shapes["visual.conv1.weight"]
    grid = isqrt(shapes["visual.positional_embedding"][0] - 1)
    return {
        "width": width,
        "patch_size": patch,
        "image_size": grid * patch,
        "no_ln_pre": "visual.ln_pre.weight" not in shapes,
        **_blocks(shapes, "visual.transformer.resblocks"),
    }


def _resnet(shapes: _Shapes) -> Config:
    counts = [
        len({name.split(".")[2] for name in shapes if name.startswith(f"visual.layer{stage}.")})
        for stage in (1, 2, 3, 4)
    ]
    grid = isqrt(shapes["visual.attnpool.positional_embedding"][0] - 1)
    return {"layers": counts, "width": shapes["visual.layer1.0.conv1.weight"][0], "image_size": grid * 32}


def _blocks(shapes: _Shapes, prefix: str) -> Config:
    depth = prefix.count(".") + 1
    numbers = {name.split(".")[depth] for name in shapes if name.startswith(prefix + ".")}
    hidden, width = shapes[f"{prefix}.0.mlp.c_fc.weight"]
    scaled = f"{prefix}.0.ls_1.gamma" in shapes
    return {
        "layers": len(numbers),
        "mlp_ratio": hidden / width if hidden % width == 0 else (hidden + 0.5) / width,
        **({"ls_init_value": 1.0} if scaled else {}),
    }


def _is_oblong(side: object) -> bool:
    return isinstance(side, list | tuple) and len(set(side)) > 1


def _known_keys(config: Mapping[str, Any], source: str) -> None:
    for section, keys, known in (
        ("the configuration", config.keys(), KNOWN),
        ("vision_cfg", config["vision_cfg"].keys(), VISION_KEYS),
        ("text_cfg", config["text_cfg"].keys(), TEXT_KEYS),
    ):
        strange = sorted(set(keys) - known)
        if strange:
            raise UserError(
                f"{source}: {section} has the unknown key {strange[0]!r}; remove it or mend its spelling"
            )


def _heads_divide(vision: Config, text: Config, source: str) -> None:
    channels = vision.get("width", 768) * (32 if isinstance(vision.get("layers"), list | tuple) else 1)
    head_width, heads = vision.get("head_width", 64), text.get("heads", 8)
    if channels % head_width:
        raise UserError(
            f"{source}: image heads {head_width} wide do not divide its width {channels}; "
            "pass config={'vision_cfg': {'head_width': ...}}"
        )
    if text.get("width", 512) % heads:
        raise UserError(
            f"{source}: {heads} text heads do not divide its width {text.get('width', 512)}; "
            "pass config={'text_cfg': {'heads': ...}}"
        )
