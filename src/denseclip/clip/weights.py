"""Reading a file of weights, which never executes a pickle, and the one strict loader that puts weights to work."""

import argparse
import json
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from denseclip.errors import UserError

Kind = Literal["torchscript", "pickle", "training", "safetensors"]
AGAIN = "fetch the file again"
INDEX = ".index.json"
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # what trainers put weights under
PREFIXES = ("module.", "_orig_mod.", "model.")  # DistributedDataParallel's, torch.compile's, Lightning's
_NUMBERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
            "float16", "float32", "float64", "str", "bytes")  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, as the file has them. `training`: a pickle with an epoch beside the weights."""

    path: Path
    kind: Kind
    state: dict[str, Tensor]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read an OpenAI TorchScript archive, a pickled state dict, safetensors, or the shards that an index lists.

    A state dict may lie under one of `WRAPPERS`, and have `PREFIXES` before all of its names. Pickles are read with
    weights_only, see `load_pickle`. Raises UserError, naming the file, for anything else and for damage.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    if path.name.endswith(INDEX):
        return _read_shards(path)
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
    return Checkpoint(path, kind, _tensors(path, unwrap(content)))


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
    content = _load(path)
    training = isinstance(content, Mapping) and "epoch" in content
    return ("training" if training else "pickle"), unwrap(content)


def _load(path: Path) -> Any:  # noqa: ANN401
    try:
        return load_pickle(path)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: holds Python objects besides tensors, which are not run here; "
            "save the weights alone: torch.save(model.state_dict(), ...)"
        ) from error
    except Exception as error:  # half a pickle fails in many ways
        raise UserError(f"{path}: damaged or truncated ({path.stat().st_size:,} bytes); {AGAIN}") from error


def unwrap(content: Any) -> Any:  # noqa: ANN401
    """The state dict in what a trainer saved: what lies under `WRAPPERS`, without `PREFIXES` that all names have."""
    while isinstance(content, Mapping):
        inside = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inside is None:
            break
        content = inside
    if not isinstance(content, Mapping) or not content or not all(isinstance(name, str) for name in content):
        return content
    while prefix := next((one for one in PREFIXES if all(name.startswith(one) for name in content)), None):
        content = {name.removeprefix(prefix): value for name, value in content.items()}
    return content


def load_pickle(path: Path, *, mmap: bool = False) -> Any:  # noqa: ANN401
    """What torch.save wrote, on the CPU: tensors, plain values, and NumPy's numbers and argparse's Namespace.

    Nothing else in a pickle is made or run (torch.load's weights_only). Raises whatever torch.load does.
    """
    with _silence(), torch.serialization.safe_globals(_harmless()):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _harmless() -> list[Any]:
    """What published checkpoints hold besides tensors; NumPy 1 and 2 give its functions different homes."""
    homes = ("numpy.core.multiarray", "numpy._core.multiarray")
    multiarray = import_module(homes[int(np.__version__[0]) > 1])
    made = [
        (getattr(multiarray, name), f"{home}.{name}") for home in homes for name in ("scalar", "_reconstruct")
    ]
    kinds = {type(np.dtype(name)) for name in _NUMBERS}
    return [*made, *kinds, np.dtype, np.ndarray, argparse.Namespace]


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


def _read_shards(index: Path) -> Checkpoint:
    """The files that an index lists, as one; each tensor must be where the index says."""
    try:
        table = json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"]
        places = {str(name): str(file) for name, file in table.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index}: no index of weights, it has no weight_map; {AGAIN}") from error
    state: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        if Path(file).name != file or file.endswith(INDEX):
            raise UserError(f"{index}: lists {file!r}, which is no file beside it; {AGAIN}")
        if not (index.parent / file).is_file():
            raise UserError(f"{index}: lists {file}, which is not there; fetch it, too")
        part = _parts(index.parent / file)
        wanted = {name for name, where in places.items() if where == file}
        if part.keys() != wanted:
            wrong = sorted(part.keys() ^ wanted)[0]
            raise UserError(f"{index}: {file} and the index do not agree about {wrong}; fetch both again")
        state |= part
    return Checkpoint(index, "safetensors", _tensors(index, unwrap(state)))


def _parts(path: Path) -> Mapping[str, Tensor]:
    """The tensors of one shard, with their names as they are."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _tensors(path, _load(path))


def _tensors(path: Path, content: object) -> dict[str, Tensor]:
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
    return {str(name): tensor.detach() for name, tensor in content.items()}


def load_weights(
    module: nn.Module, state: Mapping[str, Tensor], source: str, cure: str, *, new: tuple[str, ...] = ()
) -> None:
    """Load weights that account for all of the module's, see `complete`; what begins with `new` keeps its values."""
    own = module.state_dict()
    kept = {name: tensor for name, tensor in own.items() if name.startswith(new)}
    module.load_state_dict(complete({**kept, **state}, own, source, cure))


def complete(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str, cure: str
) -> dict[str, Tensor]:
    """`state` in float32, after checking that it has exactly the names and shapes of `expected`, all finite.

    The counters of batch norms, which no inference reads, may be missing. source, cure: what the one-line errors
    begin and end with.
    """
    counters = {n: torch.zeros((), dtype=torch.long) for n in expected if n.endswith("num_batches_tracked")}
    full = {**counters, **state}
    missing, strange = sorted(expected.keys() - full.keys()), sorted(full.keys() - expected.keys())
    if missing or strange:
        wrong = [
            _listed(what, names) for what, names in (("missing", missing), ("unknown", strange)) if names
        ]
        raise UserError(f"{source}: {' and '.join(wrong)}; {cure}")
    for name, tensor in full.items():
        if tensor.shape != expected[name].shape:
            has, needs = tuple(tensor.shape), tuple(expected[name].shape)
            raise UserError(f"{source}: {name} has shape {has}, the model needs {needs}; {cure}")
    whole = [n for n, t in full.items() if expected[n].is_floating_point() and not t.is_floating_point()]
    if whole:
        kind = str(full[whole[0]].dtype).removeprefix("torch.")
        raise UserError(
            f"{source}: {_listed('quantized weights', whole)} ({kind}); pass them in float32, float16 or bfloat16"
        )
    floats = {n: t.to(torch.float32).contiguous() if t.is_floating_point() else t for n, t in full.items()}
    broken = [name for name, tensor in floats.items() if not tensor.is_meta and not tensor.isfinite().all()]
    if broken:
        raise UserError(
            f"{source}: {_listed('NaN or infinite values in', broken)}; these weights are damaged"
        )
    return floats


def _listed(label: str, names: list[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > 3 else ""
    return f"{label} {', '.join(names[:3])}{more}"
