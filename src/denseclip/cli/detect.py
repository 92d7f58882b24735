"""`denseclip detect`: pictures in, boxes and masks out; and what `evaluate` and `train` do with detectors."""

import json
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from rich.table import Table

from denseclip.cli import options as o
from denseclip.cli.console import percent, protocol_table
from denseclip.cli.segment import Pictures
from denseclip.errors import UserError

if TYPE_CHECKING:
    from denseclip.detection.predict import DetectionResult, TrainedDetector
    from denseclip.evaluate.detection import DetectionFigures
    from denseclip.train.recipe import TrainRecipe

RESULTS, IMAGES = "detections.json", "images.json"


@o.command("model", "out", "threshold", "resize", "limit", "overwrite", "device")
def detect(pictures: Pictures, **options: Unpack[o.Options]) -> o.Done[Path]:
    """Find things in pictures with a trained detector.

    In runs/detect, unless --out says otherwise: for each picture PICTURE-detected.png; for all together
    detections.json, a COCO results file, and images.json with its images and categories.
    Pictures that cannot be read are listed at the end, and the exit code is 1.
    """
    given = o.values(options)
    model, out, threshold = options.get("model"), given["out"] or Path("runs/detect"), given["threshold"]
    if model is None:
        raise UserError("no detector is given; add --model runs/RECIPE/last.pt, or a published .pth file")
    threshold = 0.3 if threshold is None else threshold
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold {threshold:g} is no score; give one between 0 and 1")
    resize = None if given["resize"] == "auto" else given["resize"]
    identity = {"model": model, "threshold": threshold, "resize": resize}
    from denseclip.data.images import list_images, unread_in
    from denseclip.outputs import OutputFolder

    with o.status(f"loading {model}"):
        detector = load(model, resize, given["device"])
    with OutputFolder(out, "detect", identity, overwrite=given["overwrite"]) as output:
        paths = list_images(pictures)[: given["limit"]]
        if output.finished and not given["overwrite"]:
            raise UserError(f"{out / RESULTS} is there already; add --overwrite or give another --out")
        stems = output.names(paths, ["-detected.png"])
        output.refuse_foreign(
            [*(out / f"{stem}-detected.png" for stem in stems), out / IMAGES, out / RESULTS]
        )
        output.begin()
        counts, failed = _run(detector, list(zip(paths, stems, strict=True)), out, threshold)
        output.finish()
    _summary(counts, len(paths) - len(failed), out)
    for line in failed:
        o.told("skipped", line)
    o.tell_unread(unread_in(pictures))
    made = [out / f"{stem}-detected.png" for stem in stems if output.has(out / f"{stem}-detected.png")]
    figures = {"pictures": len(paths) - len(failed), "found": dict(counts.most_common())}
    return o.Done(out / RESULTS, [*made, out / IMAGES, out / RESULTS], detector.classes, {}, figures, failed)


def load(model: str | Path, resize: str | None, device: str) -> "TrainedDetector":
    """A detector, with another way to resize if one is given."""
    from denseclip.clip.device import pick_device
    from denseclip.data.transforms import ResizeRule
    from denseclip.detection.predict import load_detector

    rule = None if resize is None else ResizeRule.parse(resize)
    detector = load_detector(model, pick_device(device))
    detector.resize = detector.resize if rule is None else rule
    return detector


def _run(
    detector: "TrainedDetector", named: list[tuple[Path, str]], out: Path, threshold: float
) -> tuple[Counter[str], list[str]]:
    """Detect and write; returns how many of each class, and a line for each picture that failed."""
    from denseclip.data.images import read_image
    from denseclip.data.instances import need_pycocotools
    from denseclip.io import write_text
    from denseclip.segment.engine import Engine

    need_pycocotools()
    counts: Counter[str] = Counter()
    failed: list[str] = []
    entries: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    categories = range(1, len(detector.classes) + 1)

    def finish(item: tuple[Path, str], detected: "DetectionResult") -> "DetectionResult":
        found = detected.above(threshold)
        found.save(out, item[1])
        return found

    engine = Engine(
        lambda item: read_image(item[0]), lambda batch: [detector.detect(one) for one in batch], finish
    )
    with o.picture_progress() as progress, closing(engine.run(named)) as results:
        task = progress.add_task("detecting", total=len(named))
        for number, ((path, _), found) in enumerate(results, start=1):
            progress.advance(task)
            if isinstance(found, UserError):
                failed.append(str(found))
                continue
            counts.update(found.names)
            entries += found.to_coco(number, categories)
            height, width = found.image.shape[:2]
            images.append({"id": number, "file_name": str(path), "height": height, "width": width})
    names = [{"id": k, "name": name} for k, name in zip(categories, detector.classes, strict=True)]
    described = {"info": {"model": detector.name}, "images": images, "categories": names, "annotations": []}
    write_text(out / IMAGES, json.dumps(described, ensure_ascii=False) + "\n")
    write_text(out / RESULTS, json.dumps(entries) + "\n")
    return counts, failed


def _summary(counts: Counter[str], done: int, out: Path) -> None:
    if not done:
        return
    table = Table(title=f"{done} picture{'s' * (done != 1)} in {out}")
    table.add_column("class")
    table.add_column("found", justify="right")
    for name, count in counts.most_common(20):
        table.add_row(name, str(count))
    o.console.print(table)


def evaluate(
    model: str | Path,
    data: str,
    root: Path | None,
    split: str | None,
    limit: int | None,
    given: dict[str, Any],
    out: Path | None,
    device: str,
    *,
    skip_bad: bool = False,
) -> "DetectionFigures":
    """Evaluate a detector, print, and write with `out`. given: options that the user wrote.

    Raises UserError for an option that detectors do not have, and for results that are there already.
    """
    from denseclip.data.open_things import open_things
    from denseclip.evaluate.detection import evaluate_detector
    from denseclip.evaluate.plots import EXAMPLES, draw_detections

    strange = [name for name in given if name != "resize"]
    if strange:
        raise UserError(
            f"--{strange[0].replace('_', '-')} goes with models that segment; leave it out for {model}"
        )
    if out is not None and (out / "result.json").exists():
        raise UserError(f"{out} has results already; give another --out")
    dataset = open_things(data, root, split)
    with o.status(f"loading {model}"):
        detector = load(model, given.get("resize"), device)
    with o.counting("evaluating") as progress:
        result = evaluate_detector(detector, dataset, limit=limit, skip_bad=skip_bad, progress=progress)
    show(result)
    if out is not None:
        result.write(out)
        draw_detections(detector, dataset, out / EXAMPLES, images=len(dataset.first(limit)))
        o.say(f"written to {out}")
    return result


def evaluate_trained(
    checkpoint: Path, recipe: "TrainRecipe", root: Path | None, device: str, out: Path
) -> None:
    """Evaluate on what the recipe says; results of an earlier call give way."""
    assert recipe.data.val is not None
    (out / "result.json").unlink(missing_ok=True)
    part, resize = recipe.data, recipe.evaluation.resize
    given = {} if resize is None else {"resize": resize}
    evaluate(checkpoint, recipe.data.val, root, part.val_split, part.val_images, given, out, device)


def show(result: "DetectionFigures") -> None:
    """Print protocol, classes, average precisions, and what was skipped."""
    o.console.print(protocol_table(result.protocol.describe()))
    kinds = list(next(iter(result.classes.values()), {}))
    table = Table(title="of each class, in percent")
    for column in ("class", *kinds):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, figures in result.classes.items():
        table.add_row(name, *(percent(figures[kind]) for kind in kinds))
    o.console.print(table)
    for kind in ("box", "mask"):
        shown = [(name, v) for name, v in result.figures.items() if name.startswith(kind)]
        if shown:
            o.say(", ".join(f"{name} {percent(value)}" for name, value in shown))
    for line in result.skipped:
        o.told("skipped", line)
    speed = f", {result.images / result.seconds:.1f} images/s" if result.seconds else ""
    o.say(f"{result.images} images counted, {len(result.skipped)} skipped{speed}")
