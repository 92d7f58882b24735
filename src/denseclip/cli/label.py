"""`denseclip label`: a mountain of pictures becomes a data set."""

import warnings
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Unpack

import typer
from rich.table import Table

from denseclip.cli import options as o
from denseclip.errors import UserError, choose

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


@o.command(
    *(
        "classes",
        "model",
        "out",
        "format",
        "images",
        "min_confidence",
        "min_area",
        "confidence",
        "overlays",
        "limit",
    ),
    *(
        "labels_only",
        "image_prefix",
        "overwrite",
        "engine",
        "address",
        "workers",
        "device",
        "devices",
        "precision",
    ),
    *o.METHOD,
)
def label(source: Source, **options: Unpack[o.Options]) -> "o.Done[Summary]":
    """Label pictures by words, or with a trained detector, in the formats of other tools.

    Results are in runs/label unless --out says otherwise. Whatever stops it, the same command goes on. Pictures that
    cannot be used are listed, and the exit code is 1.
    """
    given = o.values(options)
    out, engine = given["out"] or Path("runs/label"), given["engine"]
    from denseclip.label.formats import parse_formats
    from denseclip.label.job import JobOptions, run_job
    from denseclip.label.labelled import Rules
    from denseclip.label.sources import list_items

    warnings.filterwarnings("ignore", module="PIL")  # what is wrong with a picture is said once, at the end
    rules = Rules(given["min_area"], given["min_confidence"], given["confidence"])
    job = JobOptions(
        parse_formats(given["format"] or "png"),
        rules,
        given["overlays"],
        not given["labels_only"],
        given["image_prefix"],
    )
    if engine not in ("local", "ray"):
        raise UserError(f"engine {engine!r} is unknown; {choose(engine, ('local', 'ray'))}")
    places = o.spread(given["devices"], given["device"])
    if places and engine != "local":
        raise UserError("--devices goes with this machine; with --engine ray give --workers")
    chosen = o.ModelOptions.of(options)
    load = _loader(replace(chosen, device=places[0]) if places else chosen, options)
    labeler = load()
    load = _with_precision_of(labeler, load)
    unread: Counter[str] = Counter()
    items = list_items(source, images=given["images"], leave_out=out, unread=unread)[: given["limit"]]
    how = _engine(engine, load, labeler, given["address"], given["workers"], places)
    with o.picture_progress() as progress:
        task = progress.add_task("labeling", total=None, visible=False)

        def report(done: int, skipped: int, total: int) -> None:
            if progress.tasks[task].total is None:  # what an earlier run has done does not count as speed
                progress.reset(task, total=total, completed=done, visible=True)
            named = f"labeling ({skipped} skipped)" if skipped else "labeling"
            progress.update(task, completed=done, description=named)

        summary = run_job(
            labeler, items, out, job, how, overwrite=given["overwrite"], unread=unread, progress=report
        )
    _show(summary, out)
    rows = [row for row in summary.rows() if row["pixels"]]
    failed = [reason for _, reason in summary.reasons]
    shares = {row["class"]: row["share"] for row in rows}
    made = sorted(path for path in out.iterdir() if path.is_file())
    return o.Done(summary, made, labeler.labels.classes, shares, summary.to_dict(), failed)


def _loader(chosen: o.ModelOptions, options: o.Options) -> "partial[Labeler]":
    """What makes the model, here or in a worker. options: those that the user wrote."""
    from denseclip.models.checkpoint import DETECTORS, trained_kind

    if trained_kind(chosen.model) not in DETECTORS:
        return partial(_of_words, chosen)
    strange = [name for name in ("classes", "precision", *o.METHOD) if name in options]
    strange = [name for name in strange if name not in ("threshold", "resize")]
    if strange:
        raise UserError(
            f"--{strange[0].replace('_', '-')} goes with models that segment; leave it out for {chosen.model}"
        )
    return partial(_of_things, chosen.model, options.get("resize"), chosen.device, options.get("threshold"))


def _with_precision_of(labeler: "Labeler", load: "partial[Labeler]") -> "partial[Labeler]":
    """What makes the same model in a worker, whatever "auto" would be on its machine."""
    from denseclip.label.words import WordLabeller

    if not isinstance(labeler, WordLabeller) or labeler.segmenter.precision is None:
        return load
    return partial(_of_words, replace(load.args[0], precision=labeler.segmenter.precision.name))


def _of_words(chosen: o.ModelOptions) -> "Labeler":
    from denseclip.label.words import WordLabeller

    return WordLabeller(chosen.load())


def _of_things(model: str, resize: str | None, device: str, threshold: float | None) -> "Labeler":
    from denseclip.cli.detect import load
    from denseclip.data.instances import need_pycocotools
    from denseclip.label.detected import SCORE, InstanceLabeler

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
        o.say("Next: correct what is wrong in your labeling tool, then denseclip distill corrected/data.json")
    for _, reason in summary.reasons:
        o.told("skipped", reason)
    if summary.skipped > len(summary.reasons):
        rest = summary.skipped - len(summary.reasons)
        o.told("skipped", f"{rest} more, listed in {out / 'pictures.csv'}")
    o.tell_unread(summary.unread)
    o.say(f"ran in {summary.machine}")
