"""Evaluation against the bare encoder: RN50 shape with random weights, 512 x 512, 171 classes, float32 on the CPU.

The whole pipeline reads JPEG pictures and PNG masks from the disk, encodes, decodes at full size and counts pixels.
"""

import ctypes
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.bench_segment import embeddings_near, loaded, random_rn50, smooth_picture
from denseclip.data.datasets import SegmentationDataset
from denseclip.data.opening import open_dataset
from denseclip.data.transforms import normalize
from denseclip.evaluate.run import evaluate
from denseclip.loading import make_settings
from denseclip.segment.segmenter import Segmenter
from denseclip.text import ClassEmbeddings, ClassPrompts

IMAGES, ROUNDS, FEW, MANY = 4, 3, 21, 171


def run() -> dict[str, float]:
    """{"evaluate_over_encoder": images/s of the pipeline / images/s of the encoder, median of interleaved rounds,
    "evaluate_memory_171_over_21": peak memory above the weights with 171 classes / with 21}.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = loaded(random_rn50())
        segmenter = Segmenter(clip, None, make_settings(resize="none", templates="1"))
        stats = segmenter.encoder.stats
        inputs = normalize(smooth_picture(), stats.mean, stats.std)[None]  # (1, 3, 512, 512)
        embeddings = embeddings_near(segmenter.encoder.encode(inputs).map)
        datasets = {classes: noise_dataset(folder / str(classes), classes) for classes in (FEW, MANY)}
        peaks = {classes: peak(segmenter, embeddings, datasets[classes]) for classes in (FEW, MANY)}
        ratio = speed(segmenter, inputs, datasets[MANY])
    print(
        "  memory above the weights: "
        + ", ".join(f"{k} classes {v / 2**20:.0f} MiB" for k, v in peaks.items())
    )
    return {"evaluate_over_encoder": ratio, "evaluate_memory_171_over_21": peaks[MANY] / peaks[FEW]}


def speed(segmenter: Segmenter, inputs: torch.Tensor, dataset: SegmentationDataset) -> float:
    """Seconds of `IMAGES` forward passes over those of evaluating as many images."""
    ratios = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(IMAGES):
            segmenter.encoder.encode(inputs)
        bare = time.perf_counter() - start
        start = time.perf_counter()
        evaluate(segmenter, dataset)
        whole = time.perf_counter() - start
        ratios.append(bare / whole)
        print(f"  encoder {IMAGES / bare:.2f}, evaluation {IMAGES / whole:.2f} images/s", flush=True)
    return statistics.median(ratios)


def peak(segmenter: Segmenter, embeddings: ClassEmbeddings, dataset: SegmentationDataset) -> float:
    """Bytes above what is in use now, at most, while a data set is evaluated; sets its classes."""
    count = len(dataset.spec.classes)
    rows = ClassEmbeddings(
        embeddings.matrix[:count], embeddings.class_of_prompt[:count], embeddings.classes[:count]
    )
    segmenter._embeddings = rows  # what set_classes would have computed
    segmenter._class_prompts = ClassPrompts(rows.classes, tuple((name,) for name in rows.classes))
    evaluate(segmenter, dataset, limit=1)  # buffers that are made once
    ctypes.CDLL(None).malloc_trim(0)  # hand back what is free, so that all that is used now counts as new
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory("VmRSS")
    evaluate(segmenter, dataset)
    return memory("VmHWM") - before


def memory(field: str) -> float:
    """A line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def noise_dataset(root: Path, classes: int) -> SegmentationDataset:
    """`IMAGES` pictures with structure at all scales, and masks of blocks of all classes."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(classes)
    for index in range(IMAGES):
        Image.fromarray(np.roll(smooth_picture(), 40 * index, 1)).save(
            root / "images" / f"{index}.jpg", quality=90
        )
        blocks = rng.integers(0, classes, (16, 16)).astype(np.uint8).repeat(32, 0).repeat(32, 1)
        Image.fromarray(blocks).save(root / "masks" / f"{index}.png")
    names = {str(k): f"class {k}" for k in range(classes)}
    (root / "data.json").write_text(json.dumps({"images": "images", "masks": "masks", "classes": names}))
    return open_dataset(root)


if __name__ == "__main__":
    print(run())
