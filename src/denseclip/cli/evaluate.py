"""`denseclip evaluate`: how good a model is on a data set, under a protocol that is printed with the figures."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from denseclip.cli import detection
from denseclip.cli import options as o
from denseclip.cli.results import show, show_comparison
from denseclip.errors import UserError

if TYPE_CHECKING:
    from denseclip.data.datasets import SegmentationDataset
    from denseclip.evaluate.result import Comparison, Result
    from denseclip.outputs import OutputFolder

ModelName = Annotated[
    str, typer.Argument(help="tiny-rn, tiny-vit, a name such as ViT-B-16, NAME:TAG, or a path.")
]
Data = Annotated[str, typer.Argument(help="stickers20, voc20, ade20k, ..., or a data.json of your own.")]
Root = Annotated[Path | None, typer.Option(help="Folder that holds the data set's own, such as VOCdevkit.")]
Split = Annotated[str | None, typer.Option(help="Which images; default: the ones to evaluate.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first images.")]
ProtocolName = Annotated[
    str,
    typer.Option(
        "--protocol", help="recommended (by the model), ours, official or slide; other options go before."
    ),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for tables, counts and figures.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the interrupted evaluation in --out.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="List images that cannot be used, and go on.")]
Compare = Annotated[str | None, typer.Option(help="A second model, for a table side by side.")]
BY_PROTOCOL: Any = "by protocol"


def evaluate(
    context: typer.Context,
    model: ModelName,
    data: Data,
    root: Root = None,
    split: Split = None,
    limit: Limit = None,
    protocol: ProtocolName = "recommended",
    preset: o.Preset = "auto",
    proxy: o.Proxy = None,
    refine: o.Refine = None,
    ks_norm: o.KsNorm = BY_PROTOCOL,
    background: o.BackgroundWords = None,
    threshold: o.Threshold = None,
    resize: o.Resize = BY_PROTOCOL,
    slide: o.SlideOption = "auto",
    fusion: o.FusionOption = "scores",
    scales: o.Scales = "1",
    flip: o.Flip = False,
    templates: o.Templates = BY_PROTOCOL,
    compat: o.CompatOption = None,
    activation: o.Activation = None,
    out: Out = None,
    resume: Resume = False,
    skip_bad: SkipBad = False,
    compare: Compare = None,
    device: o.Device = "auto",
    devices: o.Devices = None,
    precision: o.Precision = "auto",
) -> Any:  # noqa: ANN401 - typer cannot read a type that is imported later
    """Evaluate a model on a data set.

    With --out: result.json, classes.csv, confusion.png and examples.png (of each model, if two are compared). Of a
    detector, average precisions of boxes and masks, and detections.json, a COCO results file.
    """
    values = o.settings(locals())
    from denseclip.data.opening import open_dataset
    from denseclip.models.checkpoint import DETECTORS, trained_kind

    if trained_kind(model) in DETECTORS:
        given = o.given(context, {**values, "protocol": protocol, "compare": compare, "resume": resume})
        with written(out, "evaluate"):
            return detection.evaluate(model, data, root, split, limit, given, out, device, skip_bad=skip_bad)
    places = o.spread(devices, device)
    settings = o.given(context, values) | {"protocol": protocol, "device": device, "precision": precision}
    settings |= {"device": places[0]} if places else {}
    job = _Job(open_dataset(data, root, split), settings, limit, skip_bad, resume, places)
    with written(out, "evaluate"):
        if compare is None:
            return job.run(model, out)
        return _side_by_side(job, model, compare, out)


def written(out: Path | None, command: str) -> "AbstractContextManager[OutputFolder | None]":
    """The folder of a command's results, for this process alone."""
    from denseclip.outputs import OutputFolder

    return nullcontext() if out is None else OutputFolder(out, command, begin=True)


class _Job:
    """What is evaluated, whichever the model."""

    def __init__(
        self,
        dataset: "SegmentationDataset",
        settings: dict[str, Any],
        limit: int | None,
        skip_bad: bool,
        resume: bool,
        devices: tuple[str, ...],
    ) -> None:
        self.dataset, self.settings = dataset, settings
        self.limit, self.skip_bad, self.resume, self.devices = limit, skip_bad, resume, devices

    def run(self, model: str, out: Path | None) -> "Result":
        """Evaluate one model, print and write."""
        from denseclip.evaluate.plots import EXAMPLES, draw_examples, write_report
        from denseclip.evaluate.run import evaluate as run
        from denseclip.evaluate.run import segmenter_for, segmenter_on

        state = self._state(out)
        with o.status(f"loading {model}"):
            segmenter = segmenter_for(self.dataset.spec, model, **self.settings)
        with o.counting(f"evaluating {segmenter.clip.name}") as progress:
            result = run(
                segmenter,
                self.dataset,
                state=state,
                limit=self.limit,
                skip_bad=self.skip_bad,
                progress=progress,
                devices=self.devices,
                again=partial(segmenter_on, self.dataset.spec, model, self.settings),
            )
        show(result)
        if out is not None:
            write_report(result, out)
            draw_examples(segmenter, self.dataset, out / EXAMPLES, images=result.protocol.images)
            o.say(f"written to {out}")
        return result

    def _state(self, out: Path | None) -> Path | None:
        """Where counts are kept; UserError if there are some and they are not to be used."""
        from denseclip.evaluate.plots import STATE, need_matplotlib

        if out is None:
            if self.resume:
                raise UserError("--resume needs the --out of the interrupted evaluation; add it")
            return None
        need_matplotlib()
        if not self.resume and (out / STATE).exists():
            raise UserError(
                f"{out} has results already; add --resume to go on with them, or give another --out"
            )
        return out / STATE


def _side_by_side(job: _Job, first: str, second: str, out: Path | None) -> "Comparison":
    from denseclip.evaluate.result import compare
    from denseclip.io import write_text

    folders = [None if out is None else out / name for name in ("first", "second")]
    results = [job.run(model, folder) for model, folder in zip((first, second), folders, strict=True)]
    comparison = compare(*results)
    show_comparison(comparison)
    if out is not None:
        write_text(out / "comparison.json", comparison.to_json())
        write_text(out / "comparison.csv", comparison.to_csv())
    return comparison
