"""A detector on a data set: average precisions of boxes and masks, by pycocotools."""

import io
import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from denseclip.clip.device import processor
from denseclip.data.instances import InstanceDataset, InstanceSample, Rle
from denseclip.detection.predict import DetectionResult, TrainedDetector
from denseclip.evaluate.result import Protocol, csv_text, digest, number, reading, versions
from denseclip.evaluate.run import Progress, usable
from denseclip.io import write_text
from denseclip.segment.engine import Engine

Found = list[dict[str, Any]]  # entries of a COCO results file
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # in COCOeval's order


@dataclass(frozen=True)
class DetectionFigures:
    """Average precisions in percent, nan where nothing was to be found.

    figures: "box AP" (mean over IoU .5 to .95), "box AP50", "box AP75", "box APs", "box APm", "box APl" (small,
    medium, large things), and the same of masks. classes: "box AP" and "mask AP" of each. images: how many were
    counted. skipped: one message for each image that could not be used. Not stored: seconds, what it took; found,
    everything that was detected.
    """

    protocol: Protocol
    figures: Mapping[str, float]
    classes: Mapping[str, Mapping[str, float]]
    images: int
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0
    found: Found = field(default_factory=list, repr=False, compare=False)

    def summary(self) -> dict[str, float]:
        """The figures that are numbers."""
        return {name: value for name, value in self.figures.items() if not math.isnan(value)}

    def to_json(self) -> str:
        """JSON with two decimals, the same for the same evaluation."""
        content = {
            "protocol": self.protocol.to_dict(),
            "summary": {name: number(value) for name, value in self.figures.items()},
            "classes": {
                name: {kind: number(value) for kind, value in figures.items()}
                for name, figures in self.classes.items()
            },
            "images": self.images,
            "skipped": self.skipped,
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read `to_json()`; raises UserError for any other text."""
        with reading("result of a detector"):
            raw = json.loads(text)
            classes = {name: _floats(figures) for name, figures in raw["classes"].items()}
            protocol = Protocol.from_dict(raw["protocol"])
            return cls(protocol, _floats(raw["summary"]), classes, raw["images"], raw["skipped"])

    def write(self, folder: Path) -> None:
        """result.json, classes.csv (a line a class), and detections.json: what was found, as a COCO results file."""
        kinds = list(next(iter(self.classes.values()), {}))
        rows = [[name, *(figures[kind] for kind in kinds)] for name, figures in self.classes.items()]
        write_text(folder / "result.json", self.to_json())
        write_text(folder / "classes.csv", csv_text(["class", *kinds], rows))
        write_text(folder / "detections.json", json.dumps(self.found) + "\n")


def _floats(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else float(value) for name, value in values.items()}


def evaluate_detector(
    detector: TrainedDetector,
    dataset: InstanceDataset,
    *,
    limit: int | None = None,
    skip_bad: bool = False,
    progress: Progress = lambda done, total: None,
) -> DetectionFigures:
    """Detect in every image of a data set, each by itself, and compare with its boxes and masks.

    limit: only the first images. skip_bad: list images that cannot be used and go on. progress: called with
    (done, total) images. Raises UserError for an image that cannot be used (unless skip_bad), if none can be used,
    and if the data set has other classes.
    """
    chosen = dataset.with_classes(detector.classes).first(limit)
    begun = time.perf_counter()
    images: list[InstanceSample] = []
    found: Found = []
    skipped: list[str] = []

    def finish(index: int, detected: tuple[InstanceSample, DetectionResult]) -> tuple[InstanceSample, Found]:
        del index
        sample, things = detected
        return _without_pixels(sample), things.to_coco(sample.number, chosen.categories)

    engine = Engine(
        lambda index: chosen[index],
        lambda samples: [(sample, detector.detect(sample.image)) for sample in samples],
        finish,
    )
    every = range(len(chosen))
    results = usable(engine, every, skipped, skip_bad=skip_bad, name=dataset.name, progress=progress)
    with closing(results):
        for one in results:
            if one is not None:
                images.append(one[0])
                found += one[1]
    figures, classes = average_precisions(images, found, chosen, masks=detector.masks)
    seconds = time.perf_counter() - begun
    return DetectionFigures(
        protocol_of(detector, chosen), figures, classes, len(images), skipped, seconds, found
    )


def kept_evaluation(
    detector: TrainedDetector,
    dataset: InstanceDataset,
    folder: Path,
    *,
    fresh: bool = False,
    progress: Progress = lambda done, total: None,
) -> DetectionFigures:
    """The result of `evaluate_detector`, from `folder` if it was made under the same protocol; else it is kept there.

    fresh: forget what is kept.
    """
    protocol = protocol_of(detector, dataset.with_classes(detector.classes))
    parts = {k: v for k, v in protocol.describe().items() if k not in ("model", "details", "precision")}
    path = folder / f"detection-{digest(repr(parts))[:16]}.json"
    if path.exists() and not fresh:
        return DetectionFigures.from_json(path.read_text(encoding="utf-8"))
    result = evaluate_detector(detector, dataset, progress=progress)
    write_text(path, result.to_json())
    return result


def protocol_of(detector: TrainedDetector, dataset: InstanceDataset) -> Protocol:
    """What the figures of a detector on all images of a data set depend on."""
    ids = [entry.image_id for entry in dataset.entries]
    return Protocol(
        detector.name,
        detector.describe().removeprefix(f"{detector.name}: "),
        detector.fingerprint[:12],
        dataset.name,
        dataset.split,
        len(dataset),
        digest(repr((ids, dataset.classes)))[:12],
        {"resize": str(detector.resize), "profile": detector.model.detector.profile},
        None,
        versions(torchvision="torchvision", pycocotools="pycocotools"),
        f"fp32, {processor(detector.device)}",
    )


def average_precisions(
    images: Sequence[InstanceSample], found: Found, dataset: InstanceDataset, *, masks: bool
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """In percent: "box AP" and so on, nan where there is nothing to find; and AP of every class by its name.

    masks: also "mask AP" and so on, if the data set has masks.
    """
    have_masks = all(runs is not None for image in images for runs in image.truth.runs)
    figures: dict[str, float] = {}
    classes: dict[str, dict[str, float]] = {name: {} for name in dataset.classes}
    for kind, iou in (("box", "bbox"), ("mask", "segm")) if masks and have_masks else (("box", "bbox"),):
        values, each = _coco_figures(ground_truth(images, dataset), found, iou, len(dataset.classes))
        figures |= {f"{kind} {name}": value for name, value in zip(FIGURES, values, strict=True)}
        for name, value in zip(dataset.classes, each, strict=True):
            classes[name][f"{kind} AP"] = value
    return figures, classes


def ground_truth(images: Sequence[InstanceSample], dataset: InstanceDataset) -> dict[str, Any]:
    """The content of a COCO instances file."""
    annotations: list[dict[str, Any]] = []
    for image in images:
        truth = image.truth
        for box, label, area, crowd, runs in zip(
            truth.boxes.tolist(), truth.labels, truth.areas, truth.crowd, truth.runs, strict=True
        ):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image.number,
                "category_id": dataset.categories[int(label)],
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                "area": float(area),
                "iscrowd": int(crowd),
            }
            annotations.append(annotation if runs is None else annotation | {"segmentation": _text(runs)})
    return {
        "info": {},
        "images": [{"id": one.number, "file_name": one.image_id, **_size(one)} for one in images],
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(dataset.categories, dataset.classes, strict=True)
        ],
        "annotations": annotations,
    }


def _coco_figures(
    truth: Mapping[str, Any], found: Found, iou: str, classes: int
) -> tuple[list[float], list[float]]:
    """Figures in the order of `FIGURES`, and AP of each class, in percent."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not found:
        present = {annotation["category_id"] for annotation in truth["annotations"]}
        return [0.0] * len(FIGURES), [
            0.0 if category["id"] in present else np.nan for category in truth["categories"]
        ]
    with redirect_stdout(io.StringIO()):  # it prints its own tables
        coco = COCO()
        coco.dataset = dict(truth)
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes([dict(entry) for entry in found]), iou)
        run.evaluate()
        run.accumulate()
        run.summarize()
    precision = run.eval["precision"][:, :, :, 0, -1]  # (thresholds, recalls, classes)
    assert precision.shape[2] == classes
    each = [_percent(values[values > -1]) for values in np.moveaxis(precision, 2, 0)]
    return [float(value) * 100 if value > -1 else np.nan for value in run.stats[: len(FIGURES)]], each


def _percent(values: np.ndarray) -> float:
    return float(values.mean()) * 100 if values.size else np.nan


def _without_pixels(sample: InstanceSample) -> InstanceSample:
    """Thousands of pictures are not kept: of the image only its size."""
    empty = np.broadcast_to(np.zeros(1, np.uint8), sample.image.shape)
    return InstanceSample(sample.image_id, sample.number, empty, sample.truth)


def _size(sample: InstanceSample) -> dict[str, int]:
    return {"height": sample.image.shape[0], "width": sample.image.shape[1]}


def _text(runs: Rle) -> Rle:
    counts = runs["counts"]
    return {
        "size": list(runs["size"]),
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }
