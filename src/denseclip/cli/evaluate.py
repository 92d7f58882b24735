"""`denseclip evaluate`: how good a model is on a data set, under a protocol that is printed with the figures."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import typer

from denseclip.cli import detect
from denseclip.cli import options as o
from denseclip.cli.console import show, show_comparison
from denseclip.errors import UserError
from denseclip.outputs import HOME

if TYPE_CHECKING:
    from denseclip.data.datasets import SegmentationDataset
    from denseclip.evaluate.result import Comparison, Result
    from denseclip.outputs import OutputFolder

ModelName = Annotated[
    str, typer.Argument(help="tiny-rn, tiny-vit, a name such as ViT-B-16, NAME:TAG, or a path.")
]
Data = Annotated[str, typer.Argument(help="stickers20, voc20, ade20k, ..., or a data.json of your own.")]
MEASURED = ("data_root", "split", "limit", "protocol", "out", "resume", "skip_bad", "device", "precision")
"""What the commands share that measure."""


@o.command(*MEASURED, *o.METHOD, "compare", "devices")
def evaluate(model: ModelName, data: Data, /, **options: Unpack[o.Options]) -> "o.Done[Any]":
    """Evaluate a model on a data set.

    With --out, and only then: result.json, classes.csv, confusion.png and examples.png (of each model, if two are
    compared). Of a detector, average precisions of boxes and masks, and detections.json, a COCO results file.
    """
    given, values = o.values(options), o.settings(options)
    out, split, limit, device = given["out"], given["split"], given["limit"], given["device"]
    from denseclip.data.opening import open_dataset
    from denseclip.models.checkpoint import DETECTORS, trained_kind

    if trained_kind(model) in DETECTORS:
        strange = [*values, *(name for name in ("protocol", "compare", "resume") if name in options)]
        with written(out, "evaluate"):
            found = detect.evaluate(
                model, data, given["data_root"], split, limit, dict.fromkeys(strange) | values, out, device,
                skip_bad=given["skip_bad"],
            )  # fmt: skip
        return _done(found, out, found.figures)
    places = o.spread(given["devices"], device)
    settings = values | measured(options)
    settings |= {"device": places[0]} if places else {}
    job = _Job(
        open_dataset(data, given["data_root"], split),
        settings,
        limit,
        given["skip_bad"],
        given["resume"],
        places,
    )
    with written(out, "evaluate"):
        if given["compare"] is None:
            result = job.run(model, out)
            return _done(result, out, result.summary())
        both = _side_by_side(job, model, given["compare"], out)
        return _done(both, out, {name: one.value for name, one in both.differences.items()})


def _done(result: Any, out: Path | None, figures: Mapping[str, float]) -> o.Done[Any]:  # noqa: ANN401
    files = (
        []
        if out is None
        else sorted(path for path in out.rglob("*") if path.is_file() and HOME not in path.parts)
    )
    known = {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in figures.items()
    }
    return o.Done(result, files, tuple(getattr(result, "classes", ())), figures=known)


def measured(options: o.Options) -> dict[str, Any]:
    """How a model is run when it is measured, beside what the user wrote of the method."""
    given = o.values(options)
    return {name: given[name] for name in ("protocol", "device", "precision")}


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
