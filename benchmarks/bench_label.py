"""Labeling jobs against the bare encoder: RN50 shape with random weights, 512 x 512, 171 classes, PNG and COCO.

The job reads JPEGs from the disk, encodes, decodes at full size, finds regions and writes; the encoder runs as many
pictures of the same size in the same precision.

    python -m benchmarks.bench_label [--images N | --long | --memory]

--long: 300 pictures. --memory: tiny-rn over 2,000 pictures of 256 x 256, resident memory at the last over that at
picture 200.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.bench_segment import _class_prompts, embeddings_near, loaded, random_rn50, smooth_picture
from denseclip.clip.device import pick_precision
from denseclip.data.transforms import normalize
from denseclip.label.engines import LocalEngine
from denseclip.label.job import JobOptions, run_job
from denseclip.label.sources import list_items
from denseclip.label.words import WordLabeller
from denseclip.loading import load, make_settings
from denseclip.segment.segmenter import Segmenter

IMAGES, MANY, ROUNDS = 12, 300, 3
MEMORY_IMAGES, MEMORY_FROM = 2000, 200


def run(images: int = IMAGES) -> dict[str, float]:
    """{"label_over_encoder": images/s of a job / images/s of the encoder, median of interleaved rounds}."""
    clip = loaded(random_rn50())
    clip = clip.folded().to(dtype=pick_precision("auto", clip.device).dtype)
    segmenter = Segmenter(clip, None, make_settings(resize="none", templates="1"))
    stats = segmenter.encoder.stats
    inputs = normalize(smooth_picture(), stats.mean, stats.std)[None]  # (1, 3, 512, 512)
    embeddings = embeddings_near(segmenter.encoder.encode(inputs).map.float())
    segmenter._embeddings, segmenter._class_prompts = (
        embeddings,
        _class_prompts(embeddings),
    )  # as set_classes would
    with tempfile.TemporaryDirectory() as name:
        source = write_jpegs(Path(name) / "in", images)
        ratios = [one_round(segmenter, inputs, source, Path(name) / f"out{k}", images) for k in range(ROUNDS)]
    return {"label_over_encoder": statistics.median(ratios)}


def one_round(segmenter: Segmenter, inputs: torch.Tensor, source: Path, out: Path, images: int) -> float:
    """Seconds of as many forward passes over those of a job."""
    segmenter.encoder.encode(inputs)
    start = time.perf_counter()
    for _ in range(images):
        segmenter.encoder.encode(inputs)
    bare = time.perf_counter() - start
    start = time.perf_counter()
    items = list_items(str(source))
    labeler = WordLabeller(segmenter)
    run_job(labeler, items, out, JobOptions(("png", "coco")), LocalEngine(labeler))
    whole = time.perf_counter() - start
    print(f"  encoder {images / bare:.2f}, labeling {images / whole:.2f} images/s", flush=True)
    return bare / whole


def memory_ratio(images: int = MEMORY_IMAGES, first: int = MEMORY_FROM) -> dict[str, float]:
    """{"label_memory": resident memory at the last picture / at picture `first`} of a job with tiny-rn."""
    labeler = WordLabeller(load("tiny-rn", "ade", resize="none"))
    seen: dict[int, float] = {}

    def watch(done: int, skipped: int, total: int) -> None:
        if done in (first, images):
            seen[done] = resident()
            print(f"  {seen[done] / 2**20:.0f} MiB at picture {done}", flush=True)

    with tempfile.TemporaryDirectory() as name:
        items = list_items(str(write_jpegs(Path(name) / "in", images, side=256)))
        options, engine = JobOptions(("png", "coco")), LocalEngine(labeler)
        run_job(labeler, items, Path(name) / "out", options, engine, progress=watch)
    return {"label_memory": seen[images] / seen[first]}


def resident() -> float:
    """Bytes of this process in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def write_jpegs(folder: Path, images: int, side: int = 512) -> Path:
    """Pictures with structure at all scales, no two alike."""
    folder.mkdir(parents=True)
    picture = np.asarray(Image.fromarray(smooth_picture()).resize((side, side)))
    for index in range(images):
        moved = np.roll(picture, (7 * index, 40 * index), (0, 1))
        Image.fromarray(moved).save(folder / f"{index:04d}.jpg", quality=90)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--images", type=int, default=IMAGES)
    which.add_argument("--long", action="store_const", dest="images", const=MANY)
    which.add_argument("--memory", action="store_true")
    chosen = parser.parse_args()
    print(memory_ratio() if chosen.memory else run(chosen.images))
