"""Reading a file of weights: what it is, what is wrong with it, its tensors. Never executes a pickle."""

import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from denseclip.errors import UserError

Kind = Literal["torchscript", "pickle", "training", "safetensors"]
AGAIN = "fetch the file again"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, as the file has them. `training`: a pickle with an epoch beside the weights."""

    path: Path
    kind: Kind
    state: dict[str, Tensor]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read an OpenAI TorchScript archive, a pickled state dict (bare, or under "state_dict") or safetensors.

    A "module." before every name is removed. Pickles are read with weights_only.
    Raises UserError, naming the file, for anything else and for damage.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    head = _head(path)
    if head.startswith(b"PK"):
        kind, content = _read_zip(path)
    elif path.suffix == ".safetensors" or head[8:9] == b"{":
        kind, content = "safetensors", _read_safetensors(path)
    elif head.startswith(b"\x80"):
        kind, content = _read_pickle(path)
    else:
        raise UserError(
            f"{path}: not a checkpoint; pass a .pt, .pth, .bin or .safetensors file with CLIP weights"
        )
    return Checkpoint(path, kind, _named_tensors(path, content))


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip().lower()
    if not head:
        raise UserError(f"{path}: the file is empty; {AGAIN}")
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a git-lfs pointer, not the weights; run `git lfs pull` in its repository")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{path}: a web page, not weights; fetch the file itself, by its download link")
    return head


def _read_zip(path: Path) -> tuple[Kind, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # a broken table of contents fails in many ways
        raise UserError(f"{path}: damaged or truncated ({path.stat().st_size:,} bytes); {AGAIN}") from error
    if any(name.endswith("/constants.pkl") for name in names):
        return "torchscript", _read_torchscript(path)
    if not any(name.endswith("data.pkl") for name in names):
        raise UserError(f"{path}: a zip file without PyTorch weights; pass the checkpoint inside it")
    return _read_pickle(path)


def _read_torchscript(path: Path) -> Mapping[str, Tensor]:
    try:
        with _silence():  # torch announces the end of TorchScript at every load
            return torch.jit.load(str(path), map_location="cpu").state_dict()
    except RuntimeError as error:
        raise UserError(f"{path}: TorchScript cannot read this archive, it is damaged; {AGAIN}") from error


def _read_pickle(path: Path) -> tuple[Kind, Any]:
    try:
        with _silence():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: holds Python objects besides tensors, which are not run here; "
            "save the weights alone: torch.save(model.state_dict(), ...)"
        ) from error
    except Exception as error:  # half a pickle fails in many ways
        raise UserError(f"{path}: damaged or truncated ({path.stat().st_size:,} bytes); {AGAIN}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        return ("training" if "epoch" in content else "pickle"), content["state_dict"]
    return "pickle", content


@contextmanager
def _silence() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: damaged, truncated or not safetensors ({path.stat().st_size:,} bytes); {AGAIN}"
        ) from error


def _named_tensors(path: Path, content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping) or not content:
        what = "no tensors" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise UserError(
            f"{path}: holds {what}, not a state dict; save it with torch.save(model.state_dict(), ...)"
        )
    strange = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise UserError(
            f"{path}: {strange[0]!r} is a {type(content[strange[0]]).__name__}, not a tensor; "
            "save the state dict alone: torch.save(model.state_dict(), ...)"
        )
    prefixed = all(name.startswith("module.") for name in content)
    return {name.removeprefix("module.") if prefixed else name: t.detach() for name, t in content.items()}
