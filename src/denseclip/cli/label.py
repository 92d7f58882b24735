"""`denseclip label`: a mountain of pictures becomes a data set."""

import warnings
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from denseclip.cli import options as o
from denseclip.errors import UserError

if TYPE_CHECKING:
    from denseclip.label.engines import Engine
    from denseclip.label.labelled import Labeler
    from denseclip.label.summary import Summary

Source = Annotated[
    str,
    typer.Argument(
        help="A folder, a pattern, a list (.txt), a COCO file (.json), tar shards, or any of these at an address "
        "(s3://...).",
        show_default=False,
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        "-c",
        help='Words: "cat|kitten, red car, grass", a class set such as voc, or a .json or .txt file.',
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the data set.")]
Formats = Annotated[
    str,
    typer.Option(
        "--format", "-f", help="png, coco, coco-polygons, yolo, voc, cvat, label-studio; several with commas."
    ),
]
Images = Annotated[
    str | None, typer.Option(help="Where the pictures of a list or COCO file lie, if not beside it.")
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="Pixels whose best word has a lower probability are background; of a detector: score from which a thing "
        "gets a label, 0.5 unless given."
    ),
]
MinArea = Annotated[int, typer.Option("--min-area", help="Regions of fewer pixels get no label.")]
VoidBelow = Annotated[
    float | None, typer.Option("--void-below", help="Pixels of a lower probability get no label (void).")
]
Confidence = Annotated[
    str | None, typer.Option(help="regions: a score in each annotation; pixels: a map per picture as well.")
]
Overlays = Annotated[bool, typer.Option("--overlays", help="Also each picture with its labels painted on.")]
Link = Annotated[
    bool,
    typer.Option("--images-too/--labels-only", help="Put the pictures into yolo/ and voc/ (as hard links)."),
]
Prefix = Annotated[
    str, typer.Option("--image-prefix", help="What Label Studio finds pictures by, before their names.")
]
EngineName = Annotated[str, typer.Option("--engine", help="local, or ray: a cluster.")]
Address = Annotated[
    str | None, typer.Option(help="Of the Ray cluster; default: RAY_ADDRESS, or this machine.")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="How many Ray workers; default: one per GPU or CPU.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")]


def label(
    context: typer.Context,
    source: Source,
    classes: Classes = None,
    model: o.Model = "tiny-rn",
    out: Out = Path("labels"),
    formats: Formats = "png",
    images: Images = None,
    preset: o.Preset = "auto",
    proxy: o.Proxy = None,
    refine: o.Refine = "auto",
    ks_norm: o.KsNorm = "channels",
    background: o.BackgroundWords = "auto",
    threshold: Threshold = None,
    void_below: VoidBelow = None,
    min_area: MinArea = 0,
    confidence: Confidence = None,
    overlays: Overlays = False,
    images_too: Link = True,
    image_prefix: Prefix = "/data/local-files/?d=",
    resize: o.Resize = "auto",
    slide: o.SlideOption = "auto",
    fusion: o.FusionOption = "scores",
    scales: o.Scales = "1",
    flip: o.Flip = False,
    templates: o.Templates = "85",
    compat: o.CompatOption = None,
    activation: o.Activation = None,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
    device: o.Device = "auto",
    devices: o.Devices = None,
    precision: o.Precision = "auto",
) -> Any:  # noqa: ANN401 - typer cannot read a type that is imported later
    """Label pictures by words, or with a trained detector, in the formats of other tools.

    Whatever stops it, the same command goes on where it was. Pictures that cannot be used are listed, and the exit
    code is 1.
    """
    settings = o.settings(locals())
    given = o.given(context, {"classes": classes, "precision": precision, **settings})
    from denseclip.label.formats import parse_formats
    from denseclip.label.job import JobOptions, run_job
    from denseclip.label.labelled import Rules
    from denseclip.label.sources import list_items

    warnings.filterwarnings("ignore", module="PIL")  # what is wrong with a picture is said once, at the end
    rules = Rules(min_area, void_below, confidence)  # type: ignore[arg-type]
    options = JobOptions(parse_formats(formats), rules, overlays, images_too, image_prefix)
    if engine not in ("local", "ray"):
        raise UserError(f"engine {engine!r} is unknown; choose local or ray")
    unread: Counter[str] = Counter()
    items = list_items(source, images=images, leave_out=out, unread=unread)
    places = o.spread(devices, device)
    if places and engine != "local":
        raise UserError("--devices goes with this machine; with --engine ray give --workers")
    chosen = o.ModelOptions(model, classes, settings, places[0] if places else device, precision)
    load = _loader(chosen, given)
    labeler = load()
    load = _with_precision_of(labeler, load)
    how = _engine(engine, load, labeler, address, workers, places)
    with o.picture_progress() as progress:
        task = progress.add_task("labeling", total=None, visible=False)

        def report(done: int, skipped: int, total: int) -> None:
            if progress.tasks[task].total is None:  # what an earlier run has done does not count as speed
                progress.reset(task, total=total, completed=done, visible=True)
            named = f"labeling ({skipped} skipped)" if skipped else "labeling"
            progress.update(task, completed=done, description=named)

        summary = run_job(
            labeler, items, out, options, how, overwrite=overwrite, unread=unread, progress=report
        )
    _show(summary, out)
    if summary.skipped:
        raise o.Partly(summary)
    return summary


def _loader(options: o.ModelOptions, given: dict[str, Any]) -> "partial[Labeler]":
    """What makes the model, here or in a worker. given: which of the options the user wrote."""
    from denseclip.models.checkpoint import DETECTORS, trained_kind

    if trained_kind(options.model) not in DETECTORS:
        return partial(_of_words, options)
    threshold, resize = given.pop("threshold", None), given.pop("resize", None)
    if given:
        raise UserError(
            f"--{next(iter(given)).replace('_', '-')} goes with models that segment; leave it out for {options.model}"
        )
    return partial(_of_things, options.model, resize, options.device, threshold)


def _with_precision_of(labeler: "Labeler", load: "partial[Labeler]") -> "partial[Labeler]":
    """What makes the same model in a worker, whatever "auto" would be on its machine."""
    from denseclip.label.words import WordLabeller

    if not isinstance(labeler, WordLabeller) or labeler.segmenter.precision is None:
        return load
    return partial(_of_words, replace(load.args[0], precision=labeler.segmenter.precision.name))


def _of_words(options: o.ModelOptions) -> "Labeler":
    from denseclip.label.words import WordLabeller

    return WordLabeller(options.load())


def _of_things(model: str, resize: str | None, device: str, threshold: float | None) -> "Labeler":
    from denseclip.cli.detect import load
    from denseclip.data.things import need_pycocotools
    from denseclip.label.things import SCORE, InstanceLabeler

    need_pycocotools()
    with o.status(f"loading {model}"):
        return InstanceLabeler(load(model, resize, device), SCORE if threshold is None else threshold)


def _on(load: "partial[Labeler]", device: str) -> "Labeler":
    """What `load` makes, on another device."""
    if load.func is _of_words:
        return _of_words(replace(load.args[0], device=device))
    model, resize, _, threshold = load.args
    return _of_things(model, resize, device, threshold)


def _engine(
    name: str,
    load: "partial[Labeler]",
    labeler: "Labeler",
    address: str | None,
    workers: int | None,
    devices: tuple[str, ...],
) -> "Engine":
    import torch

    from denseclip.label.engines import DevicesEngine, LocalEngine, RayEngine

    if devices:
        return DevicesEngine(partial(_on, load), devices)
    if name == "local":
        return LocalEngine(labeler)
    return RayEngine(load, address, workers, torch.get_num_threads())


def _show(summary: "Summary", out: Path) -> None:
    many = f"{summary.labeled} picture{'s' * (summary.labeled != 1)}, {summary.regions} regions, in {out}"
    table = Table(title=many)
    for heading in ("class", "area", "pictures", "confidence"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    rows = sorted((row for row in summary.rows() if row["pixels"]), key=lambda row: -row["pixels"])
    for row in rows[:20]:
        table.add_row(
            row["class"], f"{row['share']:.1%}", str(row["pictures"]), f"{row['confidence'] or 0:.2f}"
        )
    if summary.labeled:
        o.console.print(table)
        if len(rows) > 20:
            o.say(f"{len(rows) - 20} more classes are in {out / 'summary.json'}.")
        shown = ", ".join(f"{file} ({value:.2f})" for value, file in summary.least[:3])
        o.say(f"Least confident: {shown}")
        o.say(f"Look at {out / 'contact-sheet.jpg'}.")
    for _, reason in summary.reasons:
        o.told("skipped", reason)
    if summary.skipped > len(summary.reasons):
        rest = summary.skipped - len(summary.reasons)
        o.told("skipped", f"{rest} more, listed in {out / 'pictures.csv'}")
    o.tell_unread(summary.unread)
    o.say(f"ran in {summary.machine}")
