"""From a name or a path to a CLIP with weights: every tensor accounted for, or an error."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denseclip.clip.checkpoint import Checkpoint, read_checkpoint
from denseclip.clip.clip import OPENAI_STATS, Clip, ImageStats
from denseclip.clip.config import REQUIRED, Config, check, infer, merge
from denseclip.clip.folder import embedded_folder, settings_beside, stats_of, weights_in
from denseclip.clip.hub import EMBEDDED, fetch, find_pretrained, is_known
from denseclip.clip.model import Towers, build_towers, without_values
from denseclip.clip.naming import State, is_hugging_face, to_open_clip
from denseclip.clip.tokenizer import tokenizer_for
from denseclip.errors import UserError

WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt")


@dataclass(frozen=True)
class Recipe:
    """What a Clip is made of. `name`: what the user asked for; `source`: what errors name."""

    name: str
    source: str
    state: State  # in open_clip's naming
    config: Config  # complete
    stats: ImageStats


def load_clip(
    source: str | Path,
    *,
    pretrained: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    config: Mapping[str, Any] | None = None,
) -> Clip:
    """Load a CLIP, frozen and in eval mode.

    source: "tiny-rn" or "tiny-vit" (embedded); a name such as "RN50", "ViT-B-16" or "ViT-B/16" (OpenAI's
    weights) or "NAME:TAG" with any pretrained tag of open_clip; or the path of a file (OpenAI archive, state
    dict, safetensors) or folder (open_clip's, or transformers' `CLIPModel`). A bare name wins over a file of
    that name: write "./RN50" for the file.
    pretrained: the tag, instead of ":TAG".
    config: what a file does not say, in open_clip's form: a whole model config, or parts of one that are laid
    over what the weights imply, e.g. {"quick_gelu": False} or {"vision_cfg": {"head_width": 32}}.

    QuickGELU follows the weights: tags and folders say it, OpenAI's archives and bare pickled state dicts
    in its naming have it, and for other files (safetensors, .bin, training checkpoints) `config` must say it.
    Raises UserError for whatever cannot be found, read, understood or used; weights are never random.
    """
    recipe = _recipe(source, pretrained, config)
    towers = _skeleton(recipe.config, recipe.source)
    state = complete(recipe.state, towers.state_dict(), recipe.source)
    towers.load_state_dict(state, assign=True)
    clip = Clip(
        recipe.name,
        towers.visual.to(memory_format=torch.channels_last),
        towers.text,
        tokenizer_for(recipe.config["text_cfg"], recipe.source),
        stats=recipe.stats,
        image_size=recipe.config["vision_cfg"].get("image_size", 224),
        embed_dim=recipe.config["embed_dim"],
        logit_scale=float(state["logit_scale"].exp()),
    )
    return clip.to(device, dtype)


def _skeleton(config: Config, source: str) -> Towers:
    """Towers without values (meta tensors): nothing can run until every weight is there."""
    try:
        return without_values(lambda: build_towers(config))
    except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{source}: this model config cannot be built ({reason}); mend it") from error


def complete(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> State:
    """`state` in float32, after checking that it has exactly the names and shapes of `expected`, all finite.

    The counters of batch norms, which no inference reads, may be missing.
    """
    full = {
        name: torch.zeros((), dtype=torch.long) for name in expected if name.endswith("num_batches_tracked")
    }
    full |= state
    missing, strange = sorted(expected.keys() - full.keys()), sorted(full.keys() - expected.keys())
    if missing or strange:
        parts = [
            _listed(label, names) for label, names in (("missing", missing), ("unknown", strange)) if names
        ]
        raise UserError(
            f"{source}: {' and '.join(parts)}; pass a complete CLIP checkpoint, or its model config"
        )
    for name, tensor in full.items():
        if tensor.shape != expected[name].shape:
            has, needs = tuple(tensor.shape), tuple(expected[name].shape)
            raise UserError(
                f"{source}: {name} has shape {has}, the model needs {needs}; pass the config of these weights"
            )
    floats = {n: t.to(torch.float32).contiguous() if t.is_floating_point() else t for n, t in full.items()}
    broken = sorted(name for name, tensor in floats.items() if not torch.isfinite(tensor).all())
    if broken:
        raise UserError(
            f"{source}: {_listed('NaN or infinite values in', broken)}; these weights are damaged"
        )
    return floats


def _listed(label: str, names: list[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > 3 else ""
    return f"{label} {', '.join(names[:3])}{more}"


def _recipe(source: str | Path, pretrained: str | None, config: Mapping[str, Any] | None) -> Recipe:
    name = str(source)
    embedded = isinstance(source, str) and source in EMBEDDED
    if pretrained and (embedded or _is_path(source)):
        raise UserError(
            f"{name}: pretrained={pretrained!r} goes with open_clip's names, not with this; leave it out"
        )
    if embedded:
        return _from_path(embedded_folder(name), name, config)
    if _is_path(source):
        return _from_path(Path(source).expanduser(), name, config)
    entry = find_pretrained(name, pretrained)
    if config is not None:
        raise UserError(f"{name}: its configuration is known; config= goes with a file, leave it out")
    state = to_open_clip(read_checkpoint(fetch(entry)).state)
    return Recipe(name, entry.label, state, check(entry.config, entry.label), entry.stats)


def _is_path(source: str | Path) -> bool:
    """A path by type or by looks; anything else that exists, unless it has the name of a model."""
    if isinstance(source, Path) or source.startswith((".", "~", "/")):
        return True
    if Path(source).suffix in WEIGHT_SUFFIXES:
        return True
    return bool(source) and Path(source).exists() and not is_known(source)


def _from_path(path: Path, name: str, config: Mapping[str, Any] | None) -> Recipe:
    checkpoint = read_checkpoint(weights_in(path) if path.is_dir() else path)
    beside = settings_beside(checkpoint.path, hugging_face=is_hugging_face(checkpoint.state))
    given = dict(config or {})
    stats = stats_of(given.get("preprocess_cfg", {}), name) or beside.stats or OPENAI_STATS
    given = given.get("model_cfg", {k: v for k, v in given.items() if k != "preprocess_cfg"})
    state = to_open_clip(checkpoint.state)
    full = check(_configuration(checkpoint, state, beside.config, given), name)
    return Recipe(name, name, state, full, stats)


def _configuration(checkpoint: Checkpoint, state: State, beside: Config | None, given: Config) -> Config:
    """The user's word first, then the folder's, then what the weights imply."""
    implied: Config = {"quick_gelu": True} if _is_openai(checkpoint) else {}
    if given.keys() >= set(REQUIRED):
        return merge(implied, given)
    if beside is None:
        beside = merge(implied, infer(state, str(checkpoint.path)))
    full = merge(beside, given)
    if "quick_gelu" not in full:
        raise UserError(
            f"{checkpoint.path}: does not say whether its towers use QuickGELU; pass "
            "config={'quick_gelu': True} (or False), or put its open_clip_config.json beside it "
            "(config.json for transformers' weights)"
        )
    return full


def _is_openai(checkpoint: Checkpoint) -> bool:
    """OpenAI's own archives, and bare pickles with its names (a .bin is open_clip's): QuickGELU."""
    if checkpoint.kind == "torchscript":
        return True
    named = "token_embedding.weight" in checkpoint.state
    return named and checkpoint.kind == "pickle" and checkpoint.path.suffix != ".bin"
