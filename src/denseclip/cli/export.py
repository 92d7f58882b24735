"""`denseclip export`: a model with its words as a file that runs elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Unpack

import typer

from denseclip.cli import options as o
from denseclip.errors import UserError, choose

if TYPE_CHECKING:
    from denseclip.models.portable import ExportFormat

Source = Annotated[
    str, typer.Argument(metavar="MODEL", help="A checkpoint, or a CLIP as for segment.", show_default=False)
]


@o.command("out", "classes", "preset", "templates", "activation", "format", "scores", "uint8")
def export(model: Source, /, **options: Unpack[o.Options]) -> o.Done[Path]:
    """Export a model with its classes baked in, for pictures of any size: beside the checkpoint, or MODEL.onnx here.

    Input "image": (B, 3, H, W) float32 RGB, 0..255, or with --uint8 (B, H, W, 3). Output: (B, H, W) class ids,
    or with --scores (B, K, H, W). Class names are in the file's metadata. For a CLIP sides are whole cells.
    Of a RetinaNet: (B, A, 4) boxes and (B, A, K) scores.
    """
    import torch

    from denseclip.models.checkpoint import DETECTORS, trained_kind
    from denseclip.models.portable import TrainingFree
    from denseclip.models.portable import export as write
    from denseclip.models.trained import load_trained
    from denseclip.text import ClassPrompts
    from denseclip.text import templates as named

    given = o.values(options)
    kind: Any = given["format"] or "onnx"
    out, classes, preset = given["out"], given["classes"], given["preset"]
    templates, activation, scores, uint8 = (given[k] for k in ("templates", "activation", "scores", "uint8"))
    if kind not in ("onnx", "torch-export"):
        raise UserError(f"format {kind!r} is unknown; {choose(kind, ('onnx', 'torch-export'))}")
    ending, trained = (".onnx" if kind == "onnx" else ".pt2"), trained_kind(model)
    path = out or (Path(model).with_suffix(ending) if trained else Path(Path(model).name + ending))
    if path.suffix != ending:
        raise UserError(f"{path} does not fit --format {kind}; end it in .onnx or .pt2")
    if trained in DETECTORS:
        if classes is not None or scores or uint8:
            raise UserError("--classes, --scores and --uint8 go with models that segment; leave them out")
        _export_detector(Path(model), path, kind)
        return o.Done(path, [path])
    cell, note = 1, ""
    if trained:
        if preset != "auto" or activation is not None:
            raise UserError(f"{model} is a trained model; leave out --preset and --activation")
        loaded = load_trained(model, torch.device("cpu"), torch.float32)
        words = None if classes is None else ClassPrompts.parse(classes)
        network, names = loaded.network(words, named(templates))
        stats = loaded.stats
    else:
        settings = {"preset": preset, "templates": templates, "activation": activation, "resize": "none"}
        settings |= {
            "background": None,
            "refine": None,
            "slide": None,
        }  # what runs elsewhere gives the words' scores alone
        segmenter = o.ModelOptions(model, classes, settings, "cpu", "fp32").load()
        network, names = TrainingFree(segmenter).eval(), segmenter.classes
        stats, cell = segmenter.encoder.stats, segmenter.encoder.stride
        note = f"; sides of its pictures are multiples of {cell}"
    pixels: Literal["uint8", "float32"] = "uint8" if uint8 else "float32"
    with o.status("exporting"):
        write(network, stats, names, path, kind=kind, argmax=not scores, pixels=pixels, cell=cell)
    o.say(f"{path}: {len(names)} classes{note}")
    return o.Done(path, [path], names, figures={"cell": cell})


def _export_detector(checkpoint: Path, path: Path, kind: "ExportFormat") -> None:
    import torch

    from denseclip.detection.predict import export_detector, load_detector

    detector = load_detector(checkpoint, torch.device("cpu"))
    with o.status("exporting"):
        export_detector(detector, path, kind=kind)
    told = f"{len(detector.classes)} classes; resize pictures as {detector.resize}"
    o.say(f"{path}: {told}")
