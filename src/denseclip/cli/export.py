"""`denseclip export`: a trained model as a file that runs elsewhere."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from denseclip.cli import options as o
from denseclip.errors import UserError

Checkpoint = Annotated[Path, typer.Argument(help="last.pt or best.pt of a training.", show_default=False)]
Format = Annotated[Literal["onnx", "torch-export"], typer.Option("--format", help="File format.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="File; default beside the checkpoint.")]
Scores = Annotated[bool, typer.Option("--scores", help="Scores of all classes instead of a mask.")]


def export(
    checkpoint: Checkpoint,
    kind: Format = "onnx",
    out: Out = None,
    classes: o.Classes = None,
    scores: Scores = False,
) -> None:
    """Export a trained model with its classes baked in, for pictures of any size.

    Input "image": (B, 3, H, W) float32 RGB, 0..255. Output: (B, H, W) class ids, or with --scores (B, K, H, W).
    The class names are in the file's metadata. Of a RetinaNet: (B, A, 4) boxes and (B, A, K) scores.
    """
    import torch

    from denseclip.models.checkpoint import DETECTORS, trained_kind
    from denseclip.models.export import export as write
    from denseclip.models.trained import load_trained
    from denseclip.text import ClassPrompts, templates

    path = out or checkpoint.with_suffix(".onnx" if kind == "onnx" else ".pt2")
    if path.suffix != (".onnx" if kind == "onnx" else ".pt2"):
        raise UserError(f"{path} does not fit --format {kind}; end it in .onnx or .pt2")
    if trained_kind(checkpoint) in DETECTORS:
        if classes is not None or scores:
            raise UserError("--classes and --scores go with models that segment; leave them out")
        _export_detector(checkpoint, path, kind)
        return
    model = load_trained(checkpoint, torch.device("cpu"), torch.float32)
    words = None if classes is None else ClassPrompts.parse(classes)
    network, names = model.network(words, templates("85"))
    with o.status("exporting"):
        write(network, model.stats, names, path, kind=kind, argmax=not scores)
    o.say(f"{path}: {len(names)} classes")


def _export_detector(checkpoint: Path, path: Path, kind: Literal["onnx", "torch-export"]) -> None:
    import torch

    from denseclip.detection.export import export_detector
    from denseclip.detection.predict import load_detector

    detector = load_detector(checkpoint, torch.device("cpu"))
    with o.status("exporting"):
        export_detector(detector, path, kind=kind)
    told = f"{len(detector.classes)} classes; resize pictures as {detector.resize}"
    o.say(f"{path}: {told}")
