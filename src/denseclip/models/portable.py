"""Models with their words as files that run without this library: ONNX and torch.export."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseclip.clip import ImageStats
from denseclip.errors import UserError, need
from denseclip.io import atomic_path
from denseclip.segment.segmenter import Segmenter

ExportFormat = Literal["onnx", "torch-export"]
Pixels = Literal["float32", "uint8"]
INPUT, CLASSES = "image", "classes"
EXAMPLE = (2, 3, 192, 256)  # two pictures: a batch of one would be taken for a constant


class Exported(nn.Module):
    """Pixels to masks: normalization, network and upsampling in one graph.

    Input (B, 3, H, W) float32 RGB, 0..255, or as image files give them, (B, H, W, 3) uint8. Output (B, K, H, W)
    float32 scores, or with `argmax` (B, H, W) int64 class ids.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, stats: ImageStats, *, argmax: bool, pixels: Pixels = "float32"
    ) -> None:
        super().__init__()
        self.network, self.argmax, self.pixels = network, argmax, pixels
        self.register_buffer("mean", torch.tensor(stats.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(stats.std).view(1, 3, 1, 1) * 255)

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        if self.pixels == "uint8":
            image = image.permute(0, 3, 1, 2).float()
        logits = self.network((image - self.mean) / self.std)  # (B, K, h, w)
        full = F.interpolate(logits, (image.shape[2], image.shape[3]), mode="bilinear")
        return full.argmax(1) if self.argmax else full


class TrainingFree(nn.Module):
    """A CLIP made dense with its words as constants: normalized images (B, 3, H, W) -> scores (B, K, h, w).

    Raises UserError for settings that are more than one network input and its scores.
    """

    matrix: Tensor

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        settings = segmenter.settings
        for given, option in (
            (settings.composed, "--slide, --scales and --flip"),
            (settings.refine.pd or settings.refine.ks, "--refine"),
            (settings.background.threshold is not None, "--threshold"),
        ):
            if given:
                raise UserError(f"{option} cannot be part of an exported file; leave them out")
        self.segmenter = segmenter.requires_grad_(False)
        self.register_buffer("matrix", segmenter.embeddings.matrix.clone())

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        encoder = self.segmenter.encoder
        return self.segmenter.embeddings.max_over_prompts(encoder.scores(encoder.encode(images), self.matrix))


def export(
    network: nn.Module,
    stats: ImageStats,
    classes: Sequence[str],
    path: Path,
    *,
    kind: ExportFormat = "onnx",
    argmax: bool = True,
    pixels: Pixels = "float32",
    cell: int = 1,
) -> None:
    """Write a network (images (B, 3, H, W) -> logits (B, K, h, w)) with its classes baked in.

    Batch size, height and width are free; sides are at least 32 and multiples of `cell`. pixels: what the file takes,
    see `Exported`. Class names are in the metadata under "classes", as
    a JSON list. path: must not exist. Raises UserError if it does, or if ONNX's packages are missing.
    """
    module = Exported(network, stats, argmax=argmax, pixels=pixels).eval()
    write_graph(
        module,
        ["mask" if argmax else "scores"],
        classes,
        path,
        kind=kind,
        cell=cell,
        example=_example(pixels),
    )


def write_graph(
    module: nn.Module,
    outputs: Sequence[str],
    classes: Sequence[str],
    path: Path,
    *,
    kind: ExportFormat,
    cell: int = 1,
    example: Tensor | None = None,
) -> None:
    """Write a module of one input, pictures (B, 3, H, W) float32 RGB of 0..255, or like `example`; see `export`.

    cell: sides are multiples of it, which makes the proof that sizes fit each other simpler.
    """
    if path.exists():
        raise UserError(f"{path} is there already; give another --out")
    names = json.dumps(list(classes), ensure_ascii=False)
    example = _example() if example is None else example
    if kind == "onnx":
        _onnx(module, outputs, names, path, example, cell)
        return
    if not free_sizes():
        raise UserError(
            "--format torch-export needs torch 2.14, older ones fix sizes: update torch, or take onnx"
        )
    program = torch.export.export(module, (example,), dynamic_shapes=_dynamic(example, cell), strict=False)
    with atomic_path(path) as temporary:
        torch.export.save(program, temporary, extra_files={CLASSES: names})


def free_sizes() -> bool:
    """Whether torch.export leaves height and width free; before torch 2.14 it asks for odd or even ones."""
    major, minor = torch.__version__.split(".")[:2]
    return (int(major), int(minor)) >= (2, 14)


def _onnx(
    module: nn.Module, outputs: Sequence[str], names: str, path: Path, example: Tensor, cell: int
) -> None:
    need("onnxscript", "ONNX")
    import onnx

    program = torch.onnx.export(
        module,
        (example,),
        input_names=[INPUT],
        output_names=list(outputs),
        dynamic_shapes=_dynamic(example, cell),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = CLASSES, names
    onnx.checker.check_model(model)
    with atomic_path(path) as temporary:
        onnx.save(model, str(temporary))


def _example(pixels: Pixels = "float32") -> Tensor:
    levels = torch.rand(EXAMPLE, generator=torch.Generator().manual_seed(0)) * 255
    return levels if pixels == "float32" else levels.byte().permute(0, 2, 3, 1).contiguous()


def _dynamic(example: Tensor, cell: int) -> dict[str, dict[int, Any]]:
    dim: Any = torch.export.Dim
    rows = 2 if example.is_floating_point() else 1
    if cell == 1:
        return {INPUT: {0: dim.DYNAMIC, rows: dim.DYNAMIC, rows + 1: dim.DYNAMIC}}
    sides = {rows: cell * dim("rows", min=2), rows + 1: cell * dim("columns", min=2)}
    return {INPUT: {0: dim.DYNAMIC, **sides}}
