"""Trained models as files that run without this library: ONNX and torch.export."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseclip.clip import ImageStats
from denseclip.errors import UserError
from denseclip.io import atomic_path

ExportFormat = Literal["onnx", "torch-export"]
INPUT, CLASSES = "image", "classes"
EXAMPLE = (2, 3, 192, 256)  # two pictures: a batch of one would be taken for a constant


class Exported(nn.Module):
    """Pixels to masks: normalisation, network and upsampling in one graph.

    Input (B, 3, H, W) float32 RGB, 0..255. Output (B, K, H, W) float32 scores, or with `argmax` (B, H, W) int64
    class ids.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, stats: ImageStats, *, argmax: bool) -> None:
        super().__init__()
        self.network, self.argmax = network, argmax
        self.register_buffer("mean", torch.tensor(stats.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(stats.std).view(1, 3, 1, 1) * 255)

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        logits = self.network((image - self.mean) / self.std)  # (B, K, h, w)
        full = F.interpolate(logits, (image.shape[2], image.shape[3]), mode="bilinear")
        return full.argmax(1) if self.argmax else full


def export(
    network: nn.Module,
    stats: ImageStats,
    classes: Sequence[str],
    path: Path,
    *,
    kind: ExportFormat = "onnx",
    argmax: bool = True,
) -> None:
    """Write a network (images (B, 3, H, W) -> logits (B, K, h, w)) with its classes baked in.

    Batch size, height and width are free; sides are at least 32. Class names are in the metadata under "classes", as
    a JSON list. path: must not exist. Raises UserError if it does, or if ONNX's packages are missing.
    """
    module = Exported(network, stats, argmax=argmax).eval()
    write_graph(module, ["mask" if argmax else "scores"], classes, path, kind=kind)


def write_graph(
    module: nn.Module,
    outputs: Sequence[str],
    classes: Sequence[str],
    path: Path,
    *,
    kind: ExportFormat,
    cell: int = 1,
) -> None:
    """Write a module of one input, pictures (B, 3, H, W) float32 RGB of 0..255; see `export`.

    cell: sides are multiples of it, which makes the proof that sizes fit each other simpler.
    """
    if path.exists():
        raise UserError(f"{path} is there already; give another --out")
    names = json.dumps(list(classes), ensure_ascii=False)
    if kind == "onnx":
        _onnx(module, outputs, names, path, cell)
        return
    if not free_sizes():
        raise UserError(
            "--format torch-export needs torch 2.14, older ones fix sizes: update torch, or take onnx"
        )
    program = torch.export.export(module, (_example(),), dynamic_shapes=_dynamic(cell), strict=False)
    with atomic_path(path) as temporary:
        torch.export.save(program, temporary, extra_files={CLASSES: names})


def free_sizes() -> bool:
    """Whether torch.export leaves height and width free; before torch 2.14 it asks for odd or even ones."""
    major, minor = torch.__version__.split(".")[:2]
    return (int(major), int(minor)) >= (2, 14)


def _onnx(module: nn.Module, outputs: Sequence[str], names: str, path: Path, cell: int) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError('ONNX needs its packages; pip install "denseclip[export]"') from None
    program = torch.onnx.export(
        module,
        (_example(),),
        input_names=[INPUT],
        output_names=list(outputs),
        dynamic_shapes=_dynamic(cell),
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


def _example() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(EXAMPLE, generator=generator) * 255


def _dynamic(cell: int) -> dict[str, dict[int, Any]]:
    dim: Any = torch.export.Dim
    if cell == 1:
        return {INPUT: {0: dim.DYNAMIC, 2: dim.DYNAMIC, 3: dim.DYNAMIC}}
    return {INPUT: {0: dim.DYNAMIC, 2: cell * dim("rows", min=2), 3: cell * dim("columns", min=2)}}
