"""`denseclip detect`: pictures in, boxes and masks out."""

import json
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from denseclip.cli import options as o
from denseclip.errors import UserError

if TYPE_CHECKING:
    from denseclip.detection.predict import DetectionResult, TrainedDetector

Pictures = Annotated[
    list[str], typer.Argument(help="Files, folders (searched in depth) or globs.", show_default=False)
]
Model = Annotated[
    Path,
    typer.Option(
        "--model",
        "-m",
        help="A detector: last.pt of a training, or a published .pth file.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for pictures and JSON.")]
Threshold = Annotated[float, typer.Option(min=0, max=1, help="Score from which something is shown.")]
Resize = Annotated[
    str | None,
    typer.Option(
        help="1333x800 (long x short side), short:512, ..., none; default: as it was trained.",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that are there.")]
RESULTS, IMAGES = "detections.json", "images.json"


def detect(
    pictures: Pictures,
    model: Model,
    out: Out = Path("denseclip-detected"),
    threshold: Threshold = 0.3,
    resize: Resize = None,
    overwrite: Overwrite = False,
    device: o.Device = "auto",
) -> Path:
    """Find things in pictures with a trained detector.

    For each picture PICTURE-detected.png; for all together detections.json, a COCO results file, and images.json with
    its images and categories. Pictures that cannot be read are listed at the end, and the exit code is 1.
    """
    from denseclip.data.images import list_images, unread_in
    from denseclip.outputs import OutputFolder

    identity = {"model": str(model), "threshold": threshold, "resize": resize}
    with OutputFolder(out, "detect", identity, overwrite=overwrite) as output:
        paths = list_images(pictures)
        if output.finished and not overwrite:
            raise UserError(f"{out / RESULTS} is there already; add --overwrite or give another --out")
        stems = output.names(paths, ["-detected.png"])
        output.refuse_foreign(
            [*(out / f"{stem}-detected.png" for stem in stems), out / IMAGES, out / RESULTS]
        )
        with o.status(f"loading {model}"):
            detector = load(model, resize, device)
        output.begin()
        counts, failed = _run(detector, list(zip(paths, stems, strict=True)), out, threshold)
        output.finish()
    _summary(counts, len(paths) - len(failed), out)
    for line in failed:
        o.told("skipped", line)
    o.tell_unread(unread_in(pictures))
    if failed:
        raise o.Partly(out / RESULTS)
    return out / RESULTS


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
    from denseclip.data.things import need_pycocotools
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
