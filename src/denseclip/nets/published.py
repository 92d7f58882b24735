"""Published MaskCLIP+ checkpoints, in mmsegmentation 0.x's naming, as students."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from denseclip.clip.checkpoint import read_checkpoint
from denseclip.errors import UserError
from denseclip.nets.heads import HeadKind
from denseclip.nets.resnet import RESNETS, ResNetShape
from denseclip.nets.student import Student, StudentConfig, build_student
from denseclip.text import ClassEmbeddings, class_set

HEAD = "decode_head."
TEXT = HEAD + "text_embeddings"
LEFT_OUT = re.compile(  # the teacher, which no student needs, and a step counter
    r"decode_head\.(clip\..+|[qkvc]_proj\.(weight|bias)|proj\.weight|_iter_counter)"
)
USED = re.compile(r"backbone\..+|decode_head\.(decode_module\..+|bg_embeddings)")
NAMES = {20: "voc", 59: "context", 171: "coco-stuff", 150: "ade", 19: "city"}  # by number of classes
HEAD_MARKS: tuple[tuple[str, HeadKind], ...] = (
    ("sep_bottleneck.", "deeplabv3plus"),
    ("psp_modules.", "psp"),
    ("aspp_modules.", "aspp_v2"),
)


def load_published(path: str | Path, classes: Sequence[str] | None = None) -> Student:
    """A student from a published MaskCLIP+ .pth file, in eval mode, at output stride 8.

    Network and words are read off the weights; every key is used or known to be the teacher's.
    classes: names of the text rows in the file; without them those of the benchmark with as many classes.

    Raises UserError if the file cannot be read (it is never unpickled as code), is of another model, lacks
    weights or has ones that are not known, or if the number of `classes` differs.
    """
    path = Path(path)
    state = read_checkpoint(path).state
    _check_kind(state, path)
    words = _words(state[TEXT].float(), classes, path)
    weights = {
        name.removeprefix(HEAD): tensor.float() for name, tensor in state.items() if USED.fullmatch(name)
    }
    config = _config(weights, words.matrix.shape[1], path)
    student = build_student(config, words)
    _check_weights(weights, student.state_dict(), path)
    student.load_state_dict(weights)
    return student.eval()


def _check_kind(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse what is no MaskCLIP+ student, by what it is."""
    if any(name.startswith("text_encoder.") for name in state):
        raise UserError(f"{path} is a DenseCLIP checkpoint, not a MaskCLIP+ one; load it as DenseCLIP")
    if TEXT in state and not any(name.startswith(f"{HEAD}decode_module.") for name in state):
        raise UserError(f"{path} is MaskCLIP without a student; load the CLIP that it was made of instead")
    if TEXT not in state or not any(name.startswith("backbone.") for name in state):
        raise UserError(
            f"{path} is no MaskCLIP+ checkpoint, it has no {TEXT} or no backbone; pass a published .pth"
        )
    strange = [n for n in state if n != TEXT and not USED.fullmatch(n) and not LEFT_OUT.fullmatch(n)]
    if strange:
        raise UserError(f"{path}: {_listed('unknown weights', strange)}; pass an unchanged published .pth")


def _words(matrix: Tensor, classes: Sequence[str] | None, path: Path) -> ClassEmbeddings:
    count = len(matrix)
    if classes is None:
        if count not in NAMES:
            raise UserError(f"{path} has {count} classes and no names for them; give classes=")
        classes = class_set(NAMES[count])
    if len(classes) != count:
        raise UserError(f"{path} has {count} classes, {len(classes)} names are given; give one for each")
    return ClassEmbeddings(matrix, torch.arange(count), tuple(classes))


def _config(weights: Mapping[str, Tensor], dim: int, path: Path) -> StudentConfig:
    """The network that the names and shapes imply."""
    head = next((kind for mark, kind in HEAD_MARKS if any(mark in name for name in weights)), None)
    if head is None:
        raise UserError(
            f"{path}: its decode head is none of MaskCLIP+'s; {', '.join(k for _, k in HEAD_MARKS)} work"
        )
    first = weights.get("backbone.layer1.0.conv1.weight")
    stem = weights.get("backbone.stem.6.weight")
    if first is None or stem is None:
        raise UserError(f"{path}: its backbone is no ResNetV1c, which all published students have")
    counts = [
        len({n.split(".")[2] for n in weights if n.startswith(f"backbone.layer{i}.")}) for i in (1, 2, 3, 4)
    ]
    shape = ResNetShape(
        (counts[0], counts[1], counts[2], counts[3]),
        bottleneck="backbone.layer1.0.conv3.weight" in weights,
        stem=len(stem),
        base=len(first),
    )
    known = next((name for name, published in RESNETS.items() if published == shape), None)
    return StudentConfig(
        dim,
        known or "resnet",
        head,
        background="bg_embeddings" in weights,
        shape=None if known else shape,
    )


def _check_weights(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Exactly the names and shapes of the student, all finite."""
    missing, strange = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    for label, names in (("missing weights", missing), ("unknown weights", strange)):
        if names:
            raise UserError(f"{path}: {_listed(label, sorted(names))}; pass an unchanged published .pth")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            has, needs = tuple(tensor.shape), tuple(expected[name].shape)
            raise UserError(f"{path}: {name} has shape {has}, the network of the other weights needs {needs}")
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path}: NaN or infinite values in {name}; fetch the file again")


def _listed(label: str, names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > 3 else ""
    return f"{label} {', '.join(names[:3])}{more}"
