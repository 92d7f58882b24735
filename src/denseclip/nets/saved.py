"""Checkpoint files of trained models: what they hold, and reading them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

import numpy as np
import torch
from torch import Tensor

from denseclip.errors import UserError

if TYPE_CHECKING:
    from denseclip.dense.model import TrainedModel

FORMAT = 1
KIND = "denseclip"
SUFFIXES = (".pt", ".pth")


def is_saved(source: str | Path) -> bool:
    """Whether this is the path of a checkpoint that `denseclip train` wrote, not of a CLIP."""
    path = Path(source)
    if path.suffix not in SUFFIXES or not path.is_file() or not is_zipfile(path):
        return False
    try:
        return _is_ours(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    except Exception:  # a TorchScript archive, a torn file: whoever reads it next says what is wrong
        return False


def read_saved(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, tensors on the CPU.

    Keys: system, recipe, versions, contents (what is needed to rebuild the model), model (its state dict), progress
    and optimizer. Raises UserError if it is no checkpoint or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; give the .pt file that training wrote")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception as error:  # torn zip, foreign pickle: torch raises half a dozen kinds
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise UserError(f"{path} cannot be read ({reason}); give a checkpoint of denseclip train") from None
    if not _is_ours(state):
        raise UserError(f"{path} is no checkpoint of denseclip train; give its last.pt or best.pt")
    if state["format"] != FORMAT:
        raise UserError(f"{path} has format {state['format']}, this version reads {FORMAT}; update denseclip")
    return state


def load_trained(path: str | Path, device: torch.device, dtype: torch.dtype) -> "TrainedModel":
    """The model in a checkpoint, ready for a Segmenter; UserError if it cannot be read or rebuilt."""
    saved = read_saved(path)
    if saved["system"] == "denseclip":
        from denseclip.nets.denseclip.trained import TrainedDenseClip

        return TrainedDenseClip.of(str(path), saved, device, dtype)
    from denseclip.nets.trained import TrainedStudent

    return TrainedStudent.of(str(path), saved, device, dtype)


def _is_ours(state: object) -> bool:
    return isinstance(state, dict) and state.get("kind") == KIND and "contents" in state


def weights_of(saved: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's state dict in a checkpoint's content, in which it is part of a task."""
    return {name.removeprefix("model."): tensor for name, tensor in saved["model"].items()}


def fingerprint_of(state: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 over names, shapes and float32 bytes of weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy()).data)
    return digest.hexdigest()
