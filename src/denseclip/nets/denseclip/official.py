"""Checkpoints of the official DenseCLIP code."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from denseclip.clip import Clip
from denseclip.clip.checkpoint import read_checkpoint
from denseclip.clip.tokenizer import Tokenize
from denseclip.errors import UserError
from denseclip.nets.denseclip.build import build_denseclip
from denseclip.nets.denseclip.config import DenseClipConfig
from denseclip.nets.denseclip.segmenter import DenseClipSegmenter
from denseclip.nets.denseclip.shapes import Heads, Shapes, infer_shapes

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
    load_exactly(model, state, name)
    return model.eval()


def _described(state: Mapping[str, Tensor], heads: Heads, name: str) -> tuple[DenseClipConfig, Shapes]:
    try:
        state["decode_head.conv_seg.weight"]
        return official_config(state, heads), infer_shapes(state, heads)
    except KeyError as error:
        raise UserError(
            f"{name}: has no {error.args[0]}; pass a DenseCLIP segmentation checkpoint"
        ) from error


def load_exactly(model: torch.nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict that has exactly the model's tensors; the counters of batch norms may be missing.

    Raises UserError naming `source` and what does not fit.
    """
    own = model.state_dict()
    given = {n: t for n, t in own.items() if n.endswith("num_batches_tracked")} | dict(state)
    for label, names in (
        ("lacks", own.keys() - given.keys()),
        ("has the unknown", given.keys() - own.keys()),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(f"{source}: {label} {min(names)}{more}; it is of another model")
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise UserError(
                f"{source}: {name} has shape {tuple(tensor.shape)}, the model needs {tuple(own[name].shape)}; "
                "it is of another model"
            )
    model.load_state_dict(given, strict=True)


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
    assert shapes.text is not None
    longer = torch.cat([own, table[len(own) :]])
    return {**state, TABLE: longer}, replace(shapes, text=replace(shapes.text, rows=len(longer)))
