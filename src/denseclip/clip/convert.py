"""Weights and configurations as others name them, made open_clip's."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denseclip.clip.checkpoint import INDEX
from denseclip.clip.clip import ImageStats
from denseclip.clip.config import Config
from denseclip.errors import UserError

State = dict[str, Tensor]

# Extras that may stand in a file and are dropped on purpose; everything else must be used.
DROPPED = re.compile(
    r"(input_resolution|context_length|vocab_size"  # OpenAI's archives: numbers, not weights
    r"|logit_bias"  # SigLIP's loss
    r"|attn_mask|text\.attn_mask"  # old open_clip: a constant
    r"|(text|vision)_model\.embeddings\.position_ids)$"  # transformers: 0, 1, 2, ...
)
OPENAI_TEXT = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")

HF_RENAMED = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
        (r"^vision_model\.embeddings\.patch_embedding\.weight$", "visual.conv1.weight"),
        (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
        (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
        (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
        (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
        (r"^visual_projection\.weight$", "visual.proj"),
        (r"^text_model\.embeddings\.token_embedding\.", "text.token_embedding."),
        (r"^text_model\.embeddings\.position_embedding\.weight$", "text.positional_embedding"),
        (r"^text_model\.final_layer_norm\.", "text.ln_final."),
        (r"^text_model\.encoder\.layers\.", "text.transformer.resblocks."),
        (r"^text_projection\.weight$", "text.text_projection"),
        (r"\.layer_norm([12])\.", r".ln_\1."),
        (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
        (r"\.mlp\.fc1\.", ".mlp.c_fc."),
        (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    )
)
HF_QUERY = re.compile(r"(.*)\.self_attn\.q_proj\.(weight|bias)$")


def is_hugging_face(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of transformers' `CLIPModel`."""
    return any(name.startswith(("vision_model.", "text_model.")) for name in state)


def to_open_clip(state: Mapping[str, Tensor]) -> State:
    """Weights as OpenAI, transformers or either class of open_clip names them -> the latter's newer names.

    Names that fit no rule are kept as they are, so that the check against the model reports them.
    """
    kept = {name: tensor for name, tensor in state.items() if not DROPPED.match(name)}
    if is_hugging_face(kept):
        kept = _from_hugging_face(kept)
    elif not any(name.startswith("text.") for name in kept):
        kept = {f"text.{name}" if name.startswith(OPENAI_TEXT) else name: t for name, t in kept.items()}
    if "logit_scale" in kept and kept["logit_scale"].numel() == 1:  # (1,) in some of open_clip's files
        kept["logit_scale"] = kept["logit_scale"].reshape(())
    return kept


def _from_hugging_face(state: State) -> State:
    state = _stack_projections(state)
    renamed: State = {}
    for old, tensor in state.items():
        name = old
        for pattern, new in HF_RENAMED:
            name = pattern.sub(new, name)
        renamed[name] = tensor.T if old in ("visual_projection.weight", "text_projection.weight") else tensor
    return renamed


def _stack_projections(state: State) -> State:
    """Query, key and value of every block in one matrix, where all three are there."""
    stacked = dict(state)
    for name in state:
        match = HF_QUERY.match(name)
        if match is None:
            continue
        block, part = match.groups()
        parts = [f"{block}.self_attn.{letter}_proj.{part}" for letter in "qkv"]
        if all(p in state for p in parts):
            stacked[f"{block}.attn.in_proj_{part}"] = torch.cat([stacked.pop(p) for p in parts])
    return stacked


ASSETS = Path(__file__).parent.parent / "assets"
OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
PLAIN_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt")
ACTIVATIONS = {"quick_gelu": True, "gelu": False}
# transformers writes only what differs from these
HF_COMMON = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_hidden_layers": 12}
HF_VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, **HF_COMMON}
HF_VISION |= {"image_size": 224, "patch_size": 32}
HF_TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, **HF_COMMON}
HF_TEXT |= {"max_position_embeddings": 77, "vocab_size": 49408, "eos_token_id": 49407}


@dataclass(frozen=True)
class Settings:
    """What configuration files say: a model configuration in open_clip's form, and image statistics."""

    config: Config | None = None
    stats: ImageStats | None = None


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
    return Settings(
        {"quick_gelu": False, **settings["model_cfg"]}, stats_of(settings.get("preprocess_cfg", {}), weights)
    )


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
    """transformers' `CLIPConfig` in open_clip's form."""
    kind = settings.get("model_type")
    if kind != "clip":
        raise UserError(
            f"{weights.parent}: its config.json describes a {kind!r} model; only CLIPModel folders work"
        )
    vision, text = (
        {**HF_VISION, **(settings.get("vision_config") or {})},
        {**HF_TEXT, **(settings.get("text_config") or {})},
    )
    activations = {str(part["hidden_act"]) for part in (vision, text)}
    if len(activations) > 1 or not activations <= ACTIVATIONS.keys():
        raise UserError(
            f"{weights.parent}: hidden_act {' and '.join(sorted(activations))} in config.json; "
            "both towers must have quick_gelu, or both gelu"
        )
    end = text[
        "eos_token_id"
    ]  # 2: written before transformers 4.30, and means the largest token, as 49407 does
    return {
        "embed_dim": settings.get("projection_dim", 512),
        "quick_gelu": ACTIVATIONS[activations.pop()],
        "vision_cfg": {
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            **_transformer(vision),
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "heads": text["num_attention_heads"],
            **({} if end in (2, 49407) else {"pool_type": "eos", "eos_id": end}),
            **_transformer(text),
        },
    }


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
