"""Tables of a test's own, and finished runs without any model."""

import zlib

import numpy as np
import torch

from denseclip.evaluate.detection import DetectionFigures
from denseclip.evaluate.metrics import ConfusionMatrix
from denseclip.evaluate.result import Protocol, Result
from denseclip.reproduce.runs import FinishedRun, runs_of
from denseclip.reproduce.tables import Table

CLASSES = ("cat", "dog", "grass", "sky")
PROTOCOL = Protocol("m", "m: one", "ff", "d", "val", 60, "ee", {"resize": "none"}, None, {"torch": "2"})


def counted(wrong, images=60, seed=0, only=None):
    """A result that errs at the share `wrong` of the pixels (of class `only`), on images fixed by `seed`."""
    target = np.random.default_rng(seed).integers(0, 4, (images, 10, 10))
    noise = np.random.default_rng(int(wrong * 1e6) + 1)
    hit = noise.random(target.shape) < wrong
    if only is not None:
        hit &= target == only
    matrix = ConfusionMatrix(4, per_image=True)
    matrix.update(torch.from_numpy(np.where(hit, (target + 1) % 4, target)), torch.from_numpy(target))
    return Result(PROTOCOL, matrix, CLASSES, unseen=(3,))


def made_up(run):
    """Figures that depend on the run's row and seed alone."""
    number = zlib.crc32(f"{run.name}, {run.place}, {run.seed}".encode())
    if run.recipe is not None and run.recipe.system == "detection":
        rng = np.random.default_rng(number)
        return DetectionFigures(
            PROTOCOL, dict.fromkeys(("box AP", "box AP50", "mask AP"), rng.random() * 50), {}, 60
        )
    return counted(number % 97 / 100, seed=zlib.crc32(run.place.encode()))


def finish(planned, result=made_up):
    """All runs finished, by row. result: of each; None leaves it unfinished."""
    finished = {}
    for run in planned:
        if (figures := result(run)) is not None:
            finished.setdefault(run.key, []).append(FinishedRun(run, figures, 60.0))
    return finished


def grid_table(methods, claims, models=("RN50",), **fields):
    """A table of methods that need no training, on stickers20."""
    grid = {"protocol": "ours", "data": {"voc20": "stickers20"}}
    mini = {**grid, "models": {name: name.replace("RN50", "tiny-rn") for name in models}}
    named = [{"name": name} for name in methods]
    content = {"name": "own", "title": "Own", "methods": named, "mini": mini, "paper": mini, "claims": claims}
    return Table.model_validate(content | fields)


def grid_runs(table, **results):
    """Planned and finished runs of a grid; results: by METHOD or MODEL/METHOD, share of errors or a result."""
    named = {name: counted(share) if isinstance(share, float) else share for name, share in results.items()}
    planned = [run for run in runs_of(table, "mini") if run.method in named or run.name in named]
    return planned, finish(planned, lambda run: named.get(run.name, named.get(run.method)))
