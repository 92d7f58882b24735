"""A training in a folder: its recipe, its data, and how it goes on."""

import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from denseclip.clip.device import processor
from denseclip.data.datasets import SegmentationDataset
from denseclip.data.folder import open_folder
from denseclip.data.instances import InstanceDataset
from denseclip.data.open_things import COCO, open_things
from denseclip.data.opening import open_dataset
from denseclip.data.own import read_own
from denseclip.data.published import dataset_spec, is_dataset
from denseclip.data.sticker_sets import open_stickers
from denseclip.errors import UserError
from denseclip.io import write_text
from denseclip.models.checkpoint import read_saved
from denseclip.outputs import OutputFolder
from denseclip.text import ClassPrompts
from denseclip.text.prompts import coco_things
from denseclip.train.batches import Share, load_batches
from denseclip.train.loop import Loop, StepLog, make_fabric, training_precision
from denseclip.train.progress import LAST, differences
from denseclip.train.recipe import DataPart, TrainRecipe
from denseclip.train.tasks import TrainingData, build_task, make_batches

RECIPE = "recipe.json"
GONE = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")


@dataclass(frozen=True)
class Outcome:
    """A training. steps: how many this call has done. finished: whether none is left. skipped: images that could
    not be read. warnings: of drift. precision: what it ran in, and why.
    """

    checkpoint: Path
    steps: int
    finished: bool
    seconds: float
    best_step: int
    skipped: tuple[str, ...]
    warnings: tuple[str, ...]
    precision: str


class LimitedDataset(SegmentationDataset):
    """The first images of a data set."""

    def __init__(self, dataset: SegmentationDataset, images: int) -> None:
        super().__init__(dataset.spec, dataset.split, dataset.entries[:images])


def open_training_data(part: DataPart, root: Path | None, *, held_out: bool = False) -> SegmentationDataset:
    """The images to train on, or those that are held out of it; UserError for whatever is not there."""
    if part.background and part.classes is None:
        raise UserError("data.background goes with data.classes; leave it out, the data say what they have")
    if part.classes is not None:
        class_prompts, folder = ClassPrompts.parse(part.classes), Path(part.train)
        if root is not None and not folder.exists():
            folder = root / folder
        words = class_prompts.classes, class_prompts.prompts
        dataset = open_folder(folder, *words, background=part.background)
    elif part.side is not None:
        if not is_dataset(part.train) or dataset_spec(part.train).scenes is None:
            raise UserError(f"data.side goes with sticker sets, not with {part.train}; leave it out")
        dataset = open_stickers(dataset_spec(part.train), part.split, side=part.side)
    else:
        dataset = open_dataset(part.train, root, _split(part))
    dataset = dataset if part.images is None else LimitedDataset(dataset, part.images)
    if part.holdout is None or len(dataset) < part.holdout:
        return dataset
    places = range(part.holdout - 1, len(dataset), part.holdout)
    kept = [entry for k, entry in enumerate(dataset.entries) if (k in places) == held_out]
    return SegmentationDataset(dataset.spec, dataset.split, kept)


def open_recipe_data(recipe: TrainRecipe, root: Path | None) -> TrainingData:
    """What a recipe trains on, with masks or with boxes; UserError for whatever is not there."""
    part = recipe.data
    if recipe.system != "detection":
        return open_training_data(part, root)
    if part.classes is not None:
        raise UserError(
            "data.classes goes with pictures without annotation; a detector needs boxes, leave it out"
        )
    return open_things(part.train, root, _split(part), side=part.side, learn=True).first(part.images)


def training_data_or_words(recipe: TrainRecipe, root: Path | None) -> TrainingData:
    """The same; without `root` a published data set's words alone, and no images."""
    part = recipe.data
    if recipe.system == "detection" and part.train == COCO and root is None:
        return InstanceDataset(COCO, part.split, coco_things(), range(1, 81), [])
    if recipe.system == "detection":
        return open_recipe_data(recipe, root)
    if root is None and is_dataset(part.train) and dataset_spec(part.train).scenes is None:
        return SegmentationDataset.without_images(dataset_spec(part.train), part.split)
    return open_training_data(part, root)


def _split(part: DataPart) -> str | None:
    """The split to learn from; all of a user's own data if it names no split "train"."""
    if is_dataset(part.train) or part.train == COCO or not Path(part.train).exists():
        return part.split
    return read_own(Path(part.train)).split_to_train(part.split)


def train(
    recipe: TrainRecipe,
    folder: Path,
    *,
    root: Path | None = None,
    device: str = "auto",
    strategy: str = "auto",
    on_step: Callable[[StepLog], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Outcome:
    """Train a recipe in `folder`: from its last checkpoint, or from the start.

    root: the folder that holds published data sets. strategy: see `make_fabric`. on_step: called after each step.
    stop: asked after each step whether to leave the rest for another call (one process only).
    Raises UserError for what cannot be used, and if `folder` holds a training of another recipe.
    """
    check_folder(folder, recipe)
    with OutputFolder(folder, "train", begin=True) if is_first() else nullcontext():
        try:
            return _train(recipe, folder, root, device, strategy, on_step, stop)
        except RuntimeError as error:
            if not lost_another(error):
                raise
            raise UserError(
                "another process of this training ended, and so does this one; give the same command again to go on "
                "after the last checkpoint"
            ) from None


def lost_another(error: RuntimeError) -> bool:
    """Whether this process waited for another one that is gone; Gloo's errors have no kind of their own."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return False
    return isinstance(error, dist.DistError) or any(word in str(error) for word in GONE)


def is_first() -> bool:
    """Whether this process writes, of those that `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


def _train(
    recipe: TrainRecipe,
    folder: Path,
    root: Path | None,
    device: str,
    strategy: str,
    on_step: Callable[[StepLog], None] | None,
    stop: Callable[[], bool] | None,
) -> Outcome:
    precision = training_precision(recipe.precision, device, folder)
    fabric = make_fabric(precision, device=device, strategy=strategy)
    share = Share(recipe.batch, recipe.parts(fabric.world_size), fabric.global_rank, fabric.world_size)
    dataset = open_recipe_data(recipe, root)
    torch.manual_seed(recipe.seed)
    settled = recipe.model_copy(update={"precision": precision.name})  # of the teacher, too
    task = build_task(settled, dataset, fabric.device)
    loop = Loop(task, recipe, folder, fabric, precision)
    first = loop.progress.step
    if fabric.is_global_zero:
        write_text(folder / RECIPE, json.dumps(recipe.model_dump(mode="json"), indent=1) + "\n")
    if not loop.done:
        batches = make_batches(recipe, dataset, task, share, first)
        loop.run(load_batches(batches, recipe.workers), on_step, stop)
    return _outcome(loop, folder, first)


def check_folder(folder: Path, recipe: TrainRecipe) -> None:
    """UserError if there is a training of another recipe."""
    if not (folder / LAST).exists():
        return
    different = differences(recipe, read_saved(folder / LAST)["recipe"])
    if different:
        raise UserError(
            f"{folder} has a training with another {different[0]}; give another --out, or remove the folder"
        )


def _outcome(loop: Loop, folder: Path, first: int) -> Outcome:
    path = folder / "skipped.txt"
    skipped = tuple(path.read_text(encoding="utf-8").splitlines()) if path.exists() else ()
    progress = loop.progress
    return Outcome(
        folder / LAST,
        progress.step - first,
        loop.done,
        progress.seconds,
        progress.best_step,
        skipped,
        tuple(progress.warnings),
        f"{loop.precision}, {processor(loop.fabric.device)}",
    )
