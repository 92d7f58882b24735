"""Checkpoints: one file that training goes on from, and that every command loads by its path."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer

from denseclip.errors import UserError
from denseclip.io import put
from denseclip.models.checkpoint import FORMAT, KIND, read_saved
from denseclip.train.recipe import TrainRecipe

LAST, BEST = "last.pt", "best.pt"
_PACKAGES = ("denseclip", "torch")


@dataclass
class Progress:
    """Where a training stands.

    best: the highest score of a probe so far, and at which step. reference: figures of the last probe before
    self-training. warnings: of drift.
    """

    step: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_step: int = 0
    reference: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def save(
    fabric: Fabric,
    path: Path,
    model: nn.Module,
    optimizer: Optimizer,
    progress: Progress,
    recipe: TrainRecipe,
    contents: Mapping[str, Any],
    precision: str,
) -> None:
    """Write everything, atomically; all processes call it.

    contents: plain values and tensors that are needed to use the model, see `Task.metadata`. precision: what the
    training runs in.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    state = {
        "format": FORMAT,
        "kind": KIND,
        "system": recipe.system,
        "recipe": recipe.model_dump(mode="json"),
        "versions": {name: version(name) for name in _PACKAGES},
        "contents": dict(contents),
        "progress": asdict(progress),
        "precision": precision,
        "model": model,
        "optimizer": optimizer,
    }
    if fabric.is_global_zero:
        path.parent.mkdir(parents=True, exist_ok=True)
    fabric.barrier()
    fabric.save(temporary, state)
    fabric.barrier()
    if fabric.is_global_zero:
        put(temporary, path)


def resume(
    fabric: Fabric, path: Path, model: nn.Module, optimizer: Optimizer, recipe: TrainRecipe
) -> Progress:
    """Load weights and optimizer of a checkpoint of the same recipe.

    Raises UserError if it cannot be read, or belongs to another recipe.
    """
    state: dict[str, Any] = {"model": model, "optimizer": optimizer}
    written = read_saved(path)
    different = differences(recipe, written["recipe"])
    if different:
        raise UserError(
            f"{path} was made with another {different[0]}; give the same recipe, or another --out"
        )
    fabric.load(path, state, strict=True, weights_only=True)
    return Progress(**written["progress"])


FREE = ("workers", "save_every", "panel_every", "probe_every", "checkpointing", "title", "published")
"""Fields that a training does not depend on."""


def differences(recipe: TrainRecipe, written: Mapping[str, Any]) -> list[str]:
    """Keys in which a recipe differs from that of a checkpoint, as far as training depends on them."""
    mine = flat(recipe.model_dump(mode="json", exclude=set(FREE)))
    usual = flat(TrainRecipe.model_construct(data=recipe.data).model_dump(mode="json", exclude=set(FREE)))
    theirs = {
        **{
            key: value for key, value in usual.items() if not key.startswith("data.")
        },  # younger than the file
        **flat({key: value for key, value in written.items() if key not in FREE}),
    }
    return [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"data": {"train": "voc20"}} -> {"data.train": "voc20"}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found
