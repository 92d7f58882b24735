"""Labeling without a network: a stub whose answer is written in the picture's colors."""

import hashlib
import multiprocessing
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from denseclip.data.published import dataset_spec
from denseclip.data.sticker_sets import open_stickers
from denseclip.label.detected import InstanceLabeler
from denseclip.label.engines import LocalEngine
from denseclip.label.job import JobOptions, run_job
from denseclip.label.sources import list_items
from denseclip.label.words import WordLabeller
from denseclip.outputs import HOME
from denseclip.segment.segmentation import Segmentation
from denseclip.segment.segmenter import Segmenter
from denseclip.segment.settings import Settings
from denseclip.text import ClassPrompts

CLASSES = ("cat", "red car", "gräs", "sky")
ALL = ("png", "coco", "coco-polygons", "yolo", "voc", "cvat", "label-studio")


class Stub(Segmenter):
    """Class k where red is in the k-th quarter of 0..255; confidence: green / 255."""

    machine = "stub"  # the same in processes of which only one is told to take fp32

    def __init__(self, classes=CLASSES, *, background=False, seconds=0.0):
        self._names = ("background", *classes) if background else tuple(classes)
        self._class_prompts = ClassPrompts.parse(list(self._names))
        self.settings = Settings()
        self.clip = SimpleNamespace(
            name="stub",
            fingerprint="0" * 64,
            logit_scale=1.0,
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
        self.seconds = seconds

    @property
    def classes(self):
        return self._names

    def begin(self, pictures, *, confidence=False):
        time.sleep(self.seconds)
        images = [getattr(picture, "image", picture) for picture in pictures]
        return [partial(self.segment, image, confidence=confidence) for image in images]

    def segment(self, picture, *, confidence=False):
        picture = getattr(picture, "image", picture)  # of one that was made ready
        mask = (picture[..., 0].astype(np.int64) * len(self._names) // 256).astype(np.uint8)
        sure = (picture[..., 1] / 255).astype(np.float32) if confidence else None
        background = self._names[0] == "background"
        scores = torch.stack([torch.full((2, 3), float(k)) for k in range(len(self._names))])
        return Segmentation(mask, self._names, scores, picture, sure, self._names, lambda k: sure, background)


def blobs(rng, height, width, classes=len(CLASSES)):
    """A picture whose classes are regions of all sizes, with holes and specks."""
    coarse = rng.integers(0, classes, (max(1, height // 5), max(1, width // 5)))
    ids = np.asarray(
        Image.fromarray(coarse.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    )
    ids = np.where(rng.random((height, width)) < 0.06, rng.integers(0, classes, (height, width)), ids)
    red = (ids * 256 + 128) // classes
    return np.stack([red, rng.integers(0, 256, ids.shape), ids * 9], -1).astype(np.uint8)


def write_pictures(folder, count, *, seed=0, side=(20, 48)):
    """PNGs in the folder and in "sub", some of one name."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        path = folder / ("sub" if number % 2 else ".") / f"p{number // 2:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(blobs(rng, *rng.integers(*side, 2))).save(path)
    return folder


def label(source, out, stub=None, *, overwrite=False, progress=None, **options):
    """Run a job here, with a stub or with a detector."""
    labeler = stub if isinstance(stub, InstanceLabeler) else WordLabeller(stub or Stub())
    items = list_items(str(source), leave_out=Path(out))
    chosen, engine = JobOptions(**{"formats": ALL, **options}), LocalEngine(labeler)
    return run_job(labeler, items, Path(out), chosen, engine, overwrite=overwrite, progress=progress)


def tree(folder):
    """{path: hash} of every file but the job's own."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if HOME not in path.parts
    }


def _slow_job(source, out, seconds):
    torch.set_num_threads(1)
    label(source, out, Stub(seconds=seconds), overlays=True)


def killed_job(source, out, lines, after, *, seconds=0.01):
    """Label in another process and kill -9 it some seconds after its journal has so many lines.

    Returns whether it was still at work.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["label_support"])
    process = context.Process(target=_slow_job, args=(source, out, seconds))
    process.start()
    while process.is_alive() and _lines(out / HOME / "journal.jsonl") < lines:
        time.sleep(0.003)
    process.join(after)
    alive = process.exitcode is None
    process.kill()
    process.join()
    assert alive or process.exitcode == 0
    return alive


def _lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def write_scenes(folder, count, *, side=96):
    """Sticker scenes as 0.png, 1.png, ..."""
    scenes = open_stickers(dataset_spec("stickers20"), "val", side=side)
    for index in range(count):
        Image.fromarray(scenes[index].image).save(folder / f"{index}.png")
    return folder
