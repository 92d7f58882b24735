"""From a name or a path to a CLIP with weights: every tensor accounted for, or an error."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from denseclip.clip.build import build_towers
from denseclip.clip.clip import OPENAI_STATS, Clip, ImageStats, tokenizer_for
from denseclip.clip.config import (
    REQUIRED,
    WEIGHT_SUFFIXES,
    Config,
    check,
    embedded_folder,
    infer,
    merge,
    settings_beside,
    stats_of,
    weights_in,
)
from denseclip.clip.convert import State, is_hugging_face, to_open_clip
from denseclip.clip.pretrained import EMBEDDED, fetch, find_pretrained, is_known
from denseclip.clip.towers import Towers, without_values
from denseclip.clip.weights import Checkpoint, complete, read_checkpoint
from denseclip.errors import UserError

NUMBERS = (
    "input_resolution",
    "context_length",
    "vocab_size",
)  # that OpenAI's archives keep among the weights
CURE = "pass a complete CLIP checkpoint, or its model config"
Activation = Literal["quick-gelu", "gelu"]


@dataclass(frozen=True)
class Recipe:
    """What a Clip is made of. `name`: what the user asked for; `source`: what errors name.

    silent: the file of weights if nothing says its activation. recommended: see `Clip`.
    """

    name: str
    source: str
    state: State  # in open_clip's naming
    config: Config  # complete
    stats: ImageStats
    silent: Path | None = None
    recommended: Mapping[str, str] = field(default_factory=dict)


def load_clip(
    source: str | Path,
    *,
    pretrained: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    config: Mapping[str, Any] | None = None,
    activation: str | None = None,
) -> Clip:
    """Load a CLIP, frozen and in eval mode.

    source: "tiny-rn" or "tiny-vit" (embedded); a name such as "RN50", "ViT-B-16" or "ViT-B/16" (OpenAI's
    weights) or "NAME:TAG" with any pretrained tag of open_clip; or the path of a file (OpenAI archive, state dict,
    safetensors, training checkpoint, index of shards) or folder (open_clip's, or transformers' `CLIPModel` or
    `SiglipModel`). A bare
    name wins over a file of that name: write "./RN50" for the file.
    pretrained: the tag, instead of ":TAG".
    config: what a file does not say, in open_clip's form: a whole model config, or parts of one that are laid
    over what the weights imply, e.g. {"quick_gelu": False} or {"vision_cfg": {"head_width": 32}}.
    activation: "quick-gelu" or "gelu", of both towers, for weights that do not say it themselves. Tags, folders with
    a configuration and OpenAI's archives do; it is never guessed.

    Raises UserError for whatever cannot be found, read, understood or used; weights are never random.
    """
    recipe = _recipe(source, pretrained, _with_activation(config, activation), activation is not None)
    bias = recipe.state.pop("logit_bias", None)
    towers = _skeleton(recipe.config, recipe.source)
    state = complete(recipe.state, towers.state_dict(), recipe.source, CURE)
    tokenizer = tokenizer_for(recipe.config["text_cfg"], recipe.source)
    if recipe.silent is not None:  # the last question: weights that cannot be used need no answer
        raise UserError(
            f"{recipe.silent}: does not say whether its towers use QuickGELU or GELU; give --activation quick-gelu "
            "or gelu (activation= in Python), or put its open_clip_config.json beside it (config.json for "
            "transformers' weights)"
        )
    towers.load_state_dict(state, assign=True)
    clip = Clip(
        recipe.name,
        towers.visual.to(memory_format=torch.channels_last),
        towers.text,
        tokenizer,
        stats=recipe.stats,
        config=recipe.config,
        logit_scale=float(state["logit_scale"].exp()),
        logit_bias=None if bias is None else float(bias.float().sum()),
        recommended=recipe.recommended,
    )
    return clip.to(device, dtype)


def _with_activation(config: Mapping[str, Any] | None, activation: str | None) -> Mapping[str, Any] | None:
    """A configuration in open_clip's form that says the activation, too; UserError for an unknown one."""
    if activation is None:
        return config
    if activation not in get_args(Activation):
        raise UserError(f"activation {activation!r} is unknown; choose quick-gelu or gelu")
    quick, inner = {"quick_gelu": activation == "quick-gelu"}, dict(config or {})
    return inner | ({"model_cfg": inner["model_cfg"] | quick} if "model_cfg" in inner else quick)


def _skeleton(config: Config, source: str) -> Towers:
    """Towers without values (meta tensors): nothing can run until every weight is there."""
    try:
        return without_values(lambda: build_towers(config))
    except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{source}: this model config cannot be built ({reason}); mend it") from error


def _recipe(
    source: str | Path, pretrained: str | None, config: Mapping[str, Any] | None, activation: bool
) -> Recipe:
    name = str(source)
    embedded = isinstance(source, str) and source in EMBEDDED
    if pretrained and (embedded or _is_path(source)):
        raise UserError(
            f"{name}: pretrained={pretrained!r} goes with open_clip's names, not with this; leave it out"
        )
    if embedded:
        return _from_path(embedded_folder(name), name, config, activation)
    if _is_path(source):
        return _from_path(Path(source).expanduser(), name, config, activation)
    entry = find_pretrained(name, pretrained)
    if config is not None:
        raise UserError(
            f"{name}: its configuration is known; config= and activation go with a file, leave them out"
        )
    state = to_open_clip(read_checkpoint(fetch(entry)).state)
    return Recipe(name, entry.label, state, check(entry.config, entry.label, state), entry.stats)


def _is_path(source: str | Path) -> bool:
    """A path by type or by looks; anything else that exists, unless it has the name of a model."""
    if isinstance(source, Path) or source.startswith((".", "~", "/")):
        return True
    if Path(source).suffix in WEIGHT_SUFFIXES:
        return True
    return bool(source) and Path(source).exists() and not is_known(source)


def _from_path(path: Path, name: str, config: Mapping[str, Any] | None, activation: bool) -> Recipe:
    checkpoint = read_checkpoint(weights_in(path) if path.is_dir() else path)
    beside = settings_beside(checkpoint.path, hugging_face=is_hugging_face(checkpoint.state))
    given = dict(config or {})
    stats = stats_of(given.get("preprocess_cfg", {}), name) or beside.stats or OPENAI_STATS
    given = given.get("model_cfg", {k: v for k, v in given.items() if k != "preprocess_cfg"})
    state = to_open_clip(checkpoint.state)
    full = _configuration(checkpoint, state, beside.config, given, activation)
    silent = None if "quick_gelu" in full else checkpoint.path
    return Recipe(name, name, state, check(full, name, state), stats, silent, beside.recommended)


def _configuration(
    checkpoint: Checkpoint, state: State, beside: Config | None, given: Config, activation: bool
) -> Config:
    """The user's word first, then the folder's, then what the weights imply.

    activation: whether it was asked for by name; then UserError if the folder or archive says another.
    """
    implied: Config = {"quick_gelu": True} if _is_openai(checkpoint) else {}
    if given.keys() >= set(REQUIRED):
        return merge(
            {"quick_gelu": False} | implied, given
        )  # a whole config of open_clip's that is silent means GELU
    if beside is None:
        beside = merge(implied, infer(state, str(checkpoint.path)))
    says = beside.get("quick_gelu")
    if activation and says is not None and given["quick_gelu"] != says:
        raise UserError(
            f"{checkpoint.path}: its own configuration says {'QuickGELU' if says else 'GELU'}; leave out "
            "--activation (activation= in Python), or mend the configuration"
        )
    return merge(beside, given)


def _is_openai(checkpoint: Checkpoint) -> bool:
    """OpenAI's own archives and what is saved of them unchanged, which both have QuickGELU."""
    return checkpoint.kind == "torchscript" or all(name in checkpoint.state for name in NUMBERS)
