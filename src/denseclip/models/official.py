"""Published weights of both papers, in the naming of mmsegmentation 0.x."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from denseclip.clip import Clip
from denseclip.clip.clip import Tokenize
from denseclip.clip.weights import load_weights, read_checkpoint
from denseclip.errors import UserError
from denseclip.models.backbones import RESNETS, ResNetShape
from denseclip.models.config import DenseClipConfig
from denseclip.models.denseclip import DenseClipSegmenter, build_denseclip
from denseclip.models.encoders import Heads, Shapes, infer_shapes
from denseclip.models.heads import HeadKind
from denseclip.models.student import Student, StudentConfig, build_student
from denseclip.text import ClassEmbeddings, class_set

PUBLISHED = "pass an unchanged published .pth"
OTHER_MODEL = "it is of another model"
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
    load_weights(student, weights, str(path), PUBLISHED)
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
        raise UserError(f"{path}: unknown {', '.join(strange[:3])}; {PUBLISHED}")


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


TABLE = "text_encoder.positional_embedding"


def load_official(
    source: Path | Mapping[str, Tensor],
    classes: Sequence[str],
    *,
    tokenize: Tokenize | None = None,
    heads: Heads | None = None,
    clip: Clip | None = None,
) -> DenseClipSegmenter:
    """A segmentation model of the official code, DenseCLIP or CLIP baseline, with its quirks, in eval mode.

    source: a file, or its tensors under the official names. classes: the names it was trained with, in order.
    tokenize: names -> tokens; default CLIP's. heads: where they are not those of the released models. clip: the
    CLIP it started from; its position table continues the checkpoint's, which has 13 rows and so reads names of
    3 tokens at most.

    Raises UserError for a tensor that is missing, unknown or of another size, and for a wrong number of classes.
    """
    state = dict(source) if isinstance(source, Mapping) else read_checkpoint(source).state
    name = "this checkpoint" if isinstance(source, Mapping) else str(source)
    config, shapes = _described(state, heads or Heads(), name)
    known = len(state["decode_head.conv_seg.weight"])
    if known != len(classes):
        raise UserError(f"{name}: has {known} classes, {len(classes)} names are given; give all, in order")
    if clip is not None and shapes.text is not None:
        state, shapes = _longer(state, shapes, clip, name)
    model = build_denseclip(config, shapes, classes, tokenize=tokenize)
    load_weights(model, state, name, OTHER_MODEL)
    return model.eval()


def _described(state: Mapping[str, Tensor], heads: Heads, name: str) -> tuple[DenseClipConfig, Shapes]:
    try:
        state["decode_head.conv_seg.weight"]
        return official_config(state, heads), infer_shapes(state, heads)
    except KeyError as error:
        raise UserError(
            f"{name}: has no {error.args[0]}; pass a DenseCLIP segmentation checkpoint"
        ) from error


def official_config(state: Mapping[str, Tensor], heads: Heads | None = None) -> DenseClipConfig:
    """The configuration of a model in the official naming; KeyError for a missing tensor."""
    heads = heads or Heads()
    channels = len(state["neck.fpn_convs.0.conv.bias"])
    if "contexts" not in state:
        return DenseClipConfig(language=False, official=True, fpn_channels=channels)
    return DenseClipConfig(
        official=True,
        contexts=state["contexts"].shape[1],
        decoder_width=len(state["context_decoder.memory_proj.1.bias"]),
        decoder_heads=heads.decoder,
        decoder_layers=len(
            {name.split(".")[2] for name in state if name.startswith("context_decoder.decoder.")}
        ),
        fpn_channels=channels,
    )


def _longer(
    state: dict[str, Tensor], shapes: Shapes, clip: Clip, name: str
) -> tuple[dict[str, Tensor], Shapes]:
    """The text encoder's position table with the rows of the CLIP after its own."""
    own, table = state[TABLE], clip.text.positional_embedding.detach().to("cpu", torch.float32)
    if own.shape[1] != table.shape[1]:
        raise UserError(f"{name}: did not start from {clip.name}, whose text tower is {table.shape[1]} wide")
    longer = torch.cat([own, table[len(own) :]])
    return {**state, TABLE: longer}, replace(
        shapes, text={**(shapes.text or {}), "context_length": len(longer)}
    )
