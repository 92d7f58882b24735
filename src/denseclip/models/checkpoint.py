"""Checkpoint files of trained models: what they hold, and reading them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from zipfile import is_zipfile

from torch import nn

from denseclip.clip.weights import load_pickle, load_weights, unwrap
from denseclip.errors import UserError

FORMAT = 1
KIND = "denseclip"
SUFFIXES = (".pt", ".pth")


Source = Literal["ours", "detector", "maskclip+", "denseclip", "denseclip detector"]
DETECTORS: tuple[Source, ...] = ("detector", "denseclip detector")


def trained_kind(source: str | Path) -> Source | None:
    """Whose trained model a file is: of `denseclip train` ("ours", or "detector" if it finds boxes), or of the
    official MaskCLIP+ or DenseCLIP code.

    None for everything else: names, CLIPs, files that cannot be read (whoever reads them next says why).
    """
    path = Path(source)
    if path.suffix not in SUFFIXES or not path.is_file():
        return None
    try:
        state = load_pickle(path, mmap=is_zipfile(path))
    except Exception:  # a TorchScript archive, a torn file
        return None
    if _is_ours(state):
        return "detector" if state["system"] == "detection" else "ours"
    names = unwrap(state) if isinstance(state, dict) else {}
    if "decode_head.text_embeddings" in names:
        return "maskclip+"
    if "bbox_head.retina_cls.weight" in names or "rpn_head.rpn_cls.weight" in names:
        return "denseclip detector"
    return "denseclip" if "decode_head.conv_seg.weight" in names else None


def read_saved(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, tensors on the CPU.

    Keys: system, recipe, versions, contents (what is needed to rebuild the model), model (its state dict), progress
    and optimizer. Raises UserError if it is no checkpoint or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; give the .pt file that training wrote")
    try:
        state = load_pickle(path, mmap=is_zipfile(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check it") from None
    except Exception as error:  # torn zip, foreign pickle: half a dozen kinds, in words for programmers
        size = f"{path.stat().st_size:,} bytes"
        raise UserError(
            f"{path} is no checkpoint, or damaged ({size}); give one of denseclip train"
        ) from error
    if not _is_ours(state):
        raise UserError(f"{path} is no checkpoint of denseclip train; give its last.pt or best.pt")
    if state["format"] != FORMAT:
        raise UserError(f"{path} has format {state['format']}, this version reads {FORMAT}; update denseclip")
    return state


def _is_ours(state: object) -> bool:
    return isinstance(state, dict) and state.get("kind") == KIND and "contents" in state


def restore(network: nn.Module, saved: Mapping[str, Any], name: str) -> None:
    """Load the network's weights, which in a checkpoint's content are part of a task; UserError unless all fit."""
    state = {key.removeprefix("model."): value for key, value in saved["model"].items()}
    load_weights(network, state, name, "it does not fit its own description: take an earlier checkpoint")
