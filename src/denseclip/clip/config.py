"""Model configurations in open_clip's form: checked, completed, read off weights or from files beside them."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from denseclip.clip.clip import ImageStats
from denseclip.clip.siglip import is_siglip, plain_vision
from denseclip.clip.weights import INDEX
from denseclip.errors import UserError

Config = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]  # by names of weights
SUPPORTED = "CLIP's ResNets and plain ViTs work, and SigLIP's, `denseclip models` lists them"
TANH = {"approximate": "tanh"}
RECOMMENDED = {"preset", "resize", "slide", "refine"}  # options that a configuration may recommend
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
    if vision.get("timm_model_name") and not is_siglip(vision):
        return f"its image tower is the timm model {vision['timm_model_name']}"
    if "multimodal_cfg" in config or vision.get("attentional_pool") or text.get("embed_cls"):
        return "it is a CoCa model with attentional pooling"
    if text.get("hf_model_name"):
        return f"its text tower is the transformers model {text['hf_model_name']}"
    if vision.get("act_kwargs", TANH) != TANH or any(
        part.get(o) for part in (vision, text) for o in BLOCK_OPTIONS
    ):
        return "its transformer blocks are not CLIP's"
    if any(_is_oblong(vision.get(side)) for side in ("image_size", "patch_size")):
        return "its image or patch size is not square"
    return "it has no single image vector" if vision.get("pool_type") == "none" else None


def check(config: Mapping[str, Any], source: str, state: Mapping[str, Tensor] | None = None) -> Config:
    """A complete copy of an open_clip model configuration; UserError when it is not one or not supported.

    state: weights, whose shapes say how large a tower is that the configuration only names (SigLIP's).
    """
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
    if is_siglip(checked["vision_cfg"]):
        checked["vision_cfg"] = plain_vision(checked["vision_cfg"], state)
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
    if "visual.head.probe" in shapes:
        raise UserError(
            f"{shapes.source}: SigLIP's weights do not say all; keep their open_clip_config.json, or transformers' "
            "config.json, and their tokenizer in the same folder"
        )
    return {
        "embed_dim": shapes["text.text_projection"][1],
        "vision_cfg": infer_vision(shapes),
        "text_cfg": infer_text(shapes),
    }


def infer_vision(shapes: Shapes) -> Config:
    """The `vision_cfg` that shapes of weights imply."""
    return _vit(shapes) if "visual.class_embedding" in shapes else _resnet(shapes)


def infer_text(shapes: Shapes) -> Config:
    """The `text_cfg` that shapes of weights imply."""
    return {
        "context_length": shapes["text.positional_embedding"][0],
        "vocab_size": shapes["text.token_embedding.weight"][0],
        "width": shapes["text.ln_final.weight"][0],
        "heads": max(1, shapes["text.ln_final.weight"][0] // 64),
        **_blocks(shapes, "text.transformer.resblocks"),
    }


def _vit(shapes: Shapes) -> Config:
    width, _, _, patch = shapes["visual.conv1.weight"]
    grid = isqrt(shapes["visual.positional_embedding"][0] - 1)
    return {
        "width": width,
        "patch_size": patch,
        "image_size": grid * patch,
        "no_ln_pre": "visual.ln_pre.weight" not in shapes,
        **_blocks(shapes, "visual.transformer.resblocks"),
    }


def _resnet(shapes: Shapes) -> Config:
    counts = [
        len({name.split(".")[2] for name in shapes if name.startswith(f"visual.layer{stage}.")})
        for stage in (1, 2, 3, 4)
    ]
    width = shapes["visual.layer1.0.conv1.weight"][0]
    table = shapes["visual.attnpool.positional_embedding"][0]
    return {"layers": counts, "width": width, "image_size": isqrt(table - 1) * 32}


def _blocks(shapes: Shapes, prefix: str) -> Config:
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


ASSETS = Path(__file__).parent.parent / "assets"
OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
PLAIN_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt")
ACTIVATIONS = {"quick_gelu": True, "gelu": False, "gelu_pytorch_tanh": False}
# transformers writes only what differs from these
HF_COMMON = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_hidden_layers": 12}
HF_VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, **HF_COMMON}
HF_VISION |= {"image_size": 224, "patch_size": 32}
HF_TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, **HF_COMMON}
HF_TEXT |= {"max_position_embeddings": 77, "vocab_size": 49408, "eos_token_id": 49407}
SIGLIP_COMMON: Config = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
}
SIGLIP_COMMON |= {
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "patch_size": 16,
}
SIGLIP_COMMON |= {"vocab_size": 32000, "max_position_embeddings": 64}
SIGLIP_TEXT: Config = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
SIGLIP_TEXT |= {"tokenizer_kwargs": {"clean": "canonicalize"}}
TOKENIZER = "tokenizer_config.json"


@dataclass(frozen=True)
class Settings:
    """What configuration files say: a model's shape in open_clip's form, image statistics, recommended options."""

    config: Config | None = None
    stats: ImageStats | None = None
    recommended: Mapping[str, str] = field(default_factory=dict)


def embedded_folder(name: str) -> Path:
    """The folder of an embedded CLIP; UserError when this installation has none."""
    folder = ASSETS / name
    if not (folder / "model.safetensors").is_file():
        raise UserError(
            f"{name}: its weights are not in this installation; "
            f"install it again, or train them with `python -m tools.train_tiny {name} --run runs/{name}` in a "
            "checkout and copy them in"
        )
    return folder


def weights_in(folder: Path) -> Path:
    """The file of weights in an open_clip or transformers folder, an index of several, or the only one there is."""
    names = (*OPEN_CLIP_WEIGHTS, *PLAIN_WEIGHTS)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    indices = sorted(folder.glob(f"*{INDEX}"), key=lambda path: (".safetensors." not in path.name, path.name))
    others = [path for path in sorted(folder.iterdir()) if path.suffix in WEIGHT_SUFFIXES and path.is_file()]
    if indices or len(others) == 1:
        return (indices or others)[0]
    raise UserError(f"{folder}: a folder without weights; it must hold one of {', '.join(names)}")


def settings_beside(weights: Path, *, hugging_face: bool) -> Settings:
    """Read the configuration files beside `weights`, which have transformers' names if `hugging_face`."""
    plain = _read_json(weights.parent / "config.json")
    if hugging_face:
        return (
            Settings(_from_transformers(plain, weights), _transformers_stats(weights.parent))
            if plain
            else Settings()
        )
    settings = _read_json(weights.parent / "open_clip_config.json") or (plain if "model_cfg" in plain else {})
    if not settings:
        return Settings()
    if not isinstance(settings.get("model_cfg"), dict):
        raise UserError(
            f"{weights.parent / 'open_clip_config.json'}: no model_cfg in it; fetch the file again"
        )
    model = {"quick_gelu": False, **settings["model_cfg"]}
    if model.get("text_cfg", {}).get("hf_tokenizer_name") and (weights.parent / TOKENIZER).is_file():
        model["text_cfg"] = model["text_cfg"] | {"hf_tokenizer_name": str(weights.parent)}
    stats = stats_of(settings.get("preprocess_cfg", {}), weights)
    return Settings(model, stats, _recommended(settings, weights.parent))


def _recommended(settings: Config, folder: Path) -> Mapping[str, str]:
    """The options that whoever trained the weights recommends, under the key `denseclip` of a configuration."""
    found = settings.get("denseclip", {})
    texts = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
    if not (texts and found.keys() <= RECOMMENDED):
        raise UserError(
            f"{folder}: 'denseclip' in its configuration must be an object with texts for some of "
            f"{', '.join(sorted(RECOMMENDED))}; mend it"
        )
    return found


def stats_of(settings: Mapping[str, Any], source: object, prefix: str = "") -> ImageStats | None:
    """Image statistics under `mean` and `std` (with a prefix); None where there are none."""
    keys = (f"{prefix}mean", f"{prefix}std")
    if not any(key in settings for key in keys):
        return None
    try:
        (r, g, b), (dr, dg, db) = (map(float, settings[key]) for key in keys)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{source}: {keys[0]} and {keys[1]} must be three numbers each (R, G, B); mend the configuration"
        ) from error
    return ImageStats((r, g, b), (dr, dg, db))


def _transformers_stats(folder: Path) -> ImageStats | None:
    settings = _read_json(folder / "preprocessor_config.json")
    settings = settings or _read_json(folder / "processor_config.json").get("image_processor", {})
    return stats_of(settings, folder, prefix="image_")


def _from_transformers(settings: Config, weights: Path) -> Config:
    """transformers' `CLIPConfig` or `SiglipConfig` in open_clip's form."""
    kind = settings.get("model_type")
    if kind not in ("clip", "siglip"):
        raise UserError(
            f"{weights.parent}: its config.json describes a {kind!r} model; only CLIPModel's and SiglipModel's work"
        )
    usual: tuple[Config, Config] = (HF_VISION, HF_TEXT) if kind == "clip" else (SIGLIP_COMMON, SIGLIP_COMMON)
    vision, text = (
        {**own, **(settings.get(f"{name}_config") or {})}
        for own, name in zip(usual, ("vision", "text"), strict=True)
    )
    activations = {str(part["hidden_act"]) for part in (vision, text)}
    if len(activations) > 1 or not activations <= ACTIVATIONS.keys():
        raise UserError(
            f"{weights.parent}: hidden_act {' and '.join(sorted(activations))} in config.json; "
            "both towers must have quick_gelu, or both gelu"
        )
    act = activations.pop()
    shared = {"act_kwargs": TANH} if act == "gelu_pytorch_tanh" else {}
    return {
        "embed_dim": settings.get("projection_dim", 512) if kind == "clip" else vision["hidden_size"],
        "quick_gelu": ACTIVATIONS[act],
        "vision_cfg": {
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            **({"pool_type": "map"} if kind == "siglip" else {}),
            **shared,
            **_transformer(vision),
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "heads": text["num_attention_heads"],
            **(
                SIGLIP_TEXT | {"hf_tokenizer_name": str(weights.parent)}
                if kind == "siglip"
                else _end_of(text)
            ),
            **shared,
            **_transformer(text),
        },
    }


def _end_of(text: Config) -> Config:
    end = text["eos_token_id"]
    # 2: written before transformers 4.30, and means the largest token, as 49407 does
    return {} if end in (2, 49407) else {"pool_type": "eos", "eos_id": end}


def _transformer(part: Config) -> Config:
    hidden, width = part["intermediate_size"], part["hidden_size"]
    return {
        "width": width,
        "layers": part["num_hidden_layers"],
        "mlp_ratio": hidden / width if hidden % width == 0 else (hidden + 0.5) / width,
        "norm_kwargs": {"eps": part["layer_norm_eps"]},
    }


def _read_json(path: Path) -> Config:
    """The object in a JSON file; empty when there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON; fetch the file again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a JSON object; fetch the file again")
    return content
