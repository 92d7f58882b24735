"""Makes tables: every run is trained once and counted once, whichever tables ask for it."""

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import denseclip
from denseclip.clip import load_clip
from denseclip.clip.device import pick_device
from denseclip.data.datasets import Sample, SegmentationDataset
from denseclip.data.open_things import open_things
from denseclip.data.opening import open_dataset
from denseclip.detection.predict import load_detector
from denseclip.errors import UserError
from denseclip.evaluate.detection import DetectionFigures, kept_evaluation
from denseclip.evaluate.grid import corrupted
from denseclip.evaluate.plots import need_matplotlib
from denseclip.evaluate.result import Protocol, Result, digest
from denseclip.evaluate.run import evaluate, segmenter_for
from denseclip.models.checkpoint import read_saved
from denseclip.reproduce.forecast import foretold
from denseclip.reproduce.needs import needs, not_installed, require
from denseclip.reproduce.report import Report, describe, refuse_foreign, write
from denseclip.reproduce.runs import Finished, FinishedRun, Key, Rows, Run, runs_of
from denseclip.reproduce.tables import Scale, Table, read_table
from denseclip.text.embeddings import cache_folder
from denseclip.train.loop import StepLog
from denseclip.train.progress import LAST, Progress
from denseclip.train.training import train

Watch = Callable[[str, int, int], None]
"""What is at work, steps or images done, and to do."""
REMEMBERED = 400  # a data set of no more images is kept in memory
_INDIFFERENT = ("cli", "label", "recipes", "reproduce", "train", "web")  # rooms on which no count depends


class TimeUpError(Exception):
    """Raised between two images of an evaluation that has to wait for another call."""


@dataclass
class Evaluator:
    """Counts of models on data sets, kept in `folder` by their protocol.

    data_root: the folder that holds data sets. limit: only the first images. keep: whether what was counted before is
    used.
    """

    folder: Path
    data_root: Path | None = None
    limit: int | None = None
    keep: bool = True
    device: str = "auto"
    precision: str = "fp32"
    _data: dict[str, SegmentationDataset] = field(default_factory=dict)

    def evaluate(
        self, run: Run, model: str | Path, progress: Callable[[int, int], None]
    ) -> Result | DetectionFigures:
        """The figures of a run, of `model` in place of its source: kept ones of the same protocol, or made now.

        An interrupted evaluation goes on. Raises UserError for whatever cannot be used.
        """
        images = run.images if self.limit is None else self.limit
        if run.recipe is not None and run.recipe.system == "detection":
            instances = open_things(run.data, self.data_root, run.recipe.data.val_split).first(images)
            detector = load_detector(model, pick_device(self.device), torch.float32)
            return kept_evaluation(detector, instances, self.folder, fresh=not self.keep, progress=progress)
        dataset = self._dataset(run.data, images)
        settings: dict[str, Any] = {
            "protocol": run.protocol,
            "device": self.device,
            "precision": self.precision,
        }
        segmenter = segmenter_for(dataset.spec, model, **settings, **run.settings)
        images = len(dataset) if images is None else min(images, len(dataset))
        protocol = Protocol.of(segmenter, dataset, images, run.corruption).to_dict()
        # without training, counting is quick: there a count is lost when the code changes that made it
        content = {**protocol, "machine": "", "code": code_digest() if run.recipe is None else ""}
        state = self.folder / f"{digest(json.dumps(content, sort_keys=True, default=str))[:32]}.pt"
        if not self.keep:
            state.unlink(missing_ok=True)
        change = corrupted(*run.corruption) if run.corruption else None
        kept: dict[str, Any] = {"state": state, "limit": images, "progress": progress}
        return evaluate(segmenter, dataset, change=change, corruption=run.corruption, **kept)

    def _dataset(self, name: str, images: int | None) -> SegmentationDataset:
        if name not in self._data:
            dataset = open_dataset(name, self.data_root)
            few = min(len(dataset), images or len(dataset)) <= REMEMBERED
            self._data[name] = Remembered(dataset) if few else dataset
        return self._data[name]


class Remembered(SegmentationDataset):
    """A data set whose samples are read, or rendered, once for all rows."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        super().__init__(dataset.spec, dataset.split, dataset.entries)
        self._samples: dict[int, Sample] = {}

    def __getitem__(self, index: int) -> Sample:
        """See `SegmentationDataset`."""
        if index not in self._samples:
            self._samples[index] = super().__getitem__(index)
        return self._samples[index]


@functools.cache
def code_digest() -> str:
    """A hash over the code and assets that counts depend on."""
    home = Path(denseclip.__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*home.rglob("*.py"), *(home / "assets").rglob("*.*")]):
        name = path.relative_to(home)
        if name.parts[0] not in _INDIFFERENT and path.is_file():
            digest.update(name.as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


@functools.cache
def fingerprint(clip: str) -> str:
    """Of the weights of a CLIP."""
    return load_clip(clip).fingerprint


def _weights(run: Run) -> tuple[str, ...]:
    """Fingerprints of the CLIPs of a run; rows of no recipe say it in their protocol."""
    return tuple(map(fingerprint, run.clips)) if run.recipe else ()


@dataclass(frozen=True)
class RowRunner:
    """Trains what has to be trained, in folders in `trainings`, and evaluates.

    A training lies in a folder named by its recipe and a hash over whatever it depends on, so that tables share it
    and an interrupted one goes on. stop: whether time is up. watch: told what is at work.
    """

    trainings: Path
    evaluator: Evaluator
    stop: Callable[[], bool]
    watch: Watch
    processes: int = 1

    def make(self, run: Run, *, new: bool = True) -> FinishedRun | None:
        """The run, from what is kept or made now; None if it is not finished.

        new: whether to begin or go on with what is not; teachers are always evaluated, and so is what is trained.
        Raises UserError for what cannot be used.
        """

        def counting(done: int, total: int) -> None:
            if done < total and (self.stop() or not (new or run.recipe)):
                raise TimeUpError
            self.watch(f"counting {run.title}", done, total)

        try:
            if run.seed is None:
                result = self.evaluator.evaluate(run, run.source, counting)
                return FinishedRun(run, result, weights=_weights(run))
            if not self.trained(run) and not (new and self.train(run)):
                return None
            result = self.evaluator.evaluate(run, self.folder(run) / LAST, counting)
        except TimeUpError:
            return None
        done = self.progress(run)
        return FinishedRun(run, result, done.seconds, tuple(done.warnings), _weights(run))

    def folder(self, run: Run) -> Path:
        """Where the training of a run is kept."""
        return self.trainings / run.folder("".join(_weights(run)))

    def progress(self, run: Run) -> Progress:
        """How far training is. Raises UserError for a checkpoint that cannot be read."""
        path = self.folder(run) / LAST
        return Progress(**read_saved(path)["progress"]) if path.exists() else Progress()

    def trained(self, run: Run) -> bool:
        """Whether training is done; of a run without training, always."""
        return run.seed is None or self.progress(run).step >= run.training.steps

    def train(self, run: Run) -> bool:
        """Train on to the end, or until time is up, in all processes together; returns whether it is finished."""

        def on_step(told: StepLog) -> None:
            self.watch(f"training {run.title}", told.step, run.training.steps)

        def stop() -> bool:  # the first process says it for all, or the others would wait for it
            verdict = torch.tensor([float(self.stop())])
            if self.processes > 1:
                dist.broadcast(verdict, 0)
            return bool(verdict)

        if stop():
            return False
        root, device = self.evaluator.data_root, self.evaluator.device
        return train(
            run.training, self.folder(run), root=root, device=device, on_step=on_step, stop=stop
        ).finished

    def remaining(self, planned: Sequence[Run], finished: Finished) -> str:
        """A line on what is finished and what is left, with a time by the pace of trainings so far."""
        done = sum(len(runs) for runs in finished.values())
        said = f"{done} of {len(planned)} runs are finished"
        trainings = {self.folder(run): run for run in planned if run.seed is not None}
        progress = [self.progress(run) for run in trainings.values()]
        steps, seconds = sum(one.step for one in progress), sum(one.seconds for one in progress)
        left = sum(run.training.steps for run in trainings.values()) - steps
        if not left:
            return said
        about = f", about {seconds / steps * left / 60:.0f} minutes at the pace so far" if steps else ""
        return f"{said}; {left} training steps are left{about}; give the same command again to go on"


def reproduce(
    table: str | Table,
    scale: Scale = "mini",
    *,
    rows: Rows = "all",
    out: Path = Path("runs/reproduce"),
    data_root: Path | None = None,
    model: Mapping[str, str] | None = None,
    limit: int | None = None,
    no_cache: bool = False,
    runs: Path | None = None,
    time_limit: float | None = None,
    filter: str | None = None,
    seeds: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    dry_run: bool = False,
    watch: Watch = lambda title, done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> Report | None:
    """Make the rows of a published table, and write what there is of it into `out`: NAME-SCALE.md, .csv, .json, .png.

    table: a name, see `table_names`, or one's own. scale "mini": tiny CLIPs on sticker scenes; "paper": as published,
    with `data_root` holding the data sets. rows: of those that the table has. model: by published name, what to load
    instead. limit: only the first images are evaluated. no_cache: count anew what was counted before. runs: where
    trainings are kept, by default, like counts, with denseclip's other caches. time_limit: stop after so many
    minutes. filter: make rows with this in their names. seeds: make the first ones of each row. precision: of
    evaluations, and of trainings whose recipe leaves it open. dry_run: only tell what is there, what is missing, and
    how long it will take. watch: told what is at work. say: told what is finished, fails, or is left.

    Under `torchrun` processes train together and share evaluations; the first one writes, the others return None.
    Whatever is finished, now or earlier, is in the report; None if nothing is. A row that fails is left out, and the
    others go on. Raises UserError for what cannot be used; MissingError, with a line for each thing, where data or
    weights are not there.
    """
    need_matplotlib()
    spec, began = table if isinstance(table, Table) else read_table(table), time.monotonic()
    rank, processes = join_processes(device)
    if rank:
        say, watch = lambda line: None, lambda title, done, total: None
    every = runs_of(spec, scale, rows, model, precision)
    lacking = not_installed(clip for run in every for clip in run.clips)
    planned = [run for run in every if not set(run.clips) & set(lacking)] or every
    chosen = _choose(planned, filter, seeds)
    if rank:
        dist.barrier()  # the first process downloads what is missing
    needed = needs(planned, scale, data_root, get=not dry_run)
    if processes > 1 and not rank:
        dist.barrier()
    evaluator = Evaluator(cache_folder() / "reproduce", data_root, limit, not no_cache, device, precision)
    stop = lambda: time_limit is not None and time.monotonic() - began >= time_limit * 60  # noqa: E731
    runner = RowRunner(runs or cache_folder() / "training", evaluator, stop, watch, processes)
    missing = any(need.missing for need in needed)
    if dry_run or (scale == "paper" and not missing):
        # which trainings are done is seen in folders that are named by the weights
        left = chosen if missing else [run for run in chosen if run.seed is None or not runner.trained(run)]
        for line in (*map(str, needed), *foretold(left, pick_device(device), processes, limit)):
            say(line)
    if dry_run:
        return None
    require(needed)
    if not rank:
        refuse_foreign(spec, scale, out)
    if processes > 1:
        _make_together(runner, planned, chosen, rank)
        if rank:
            return None
        runner = replace(runner, evaluator=replace(evaluator, keep=True))  # what was counted just now
    finished, failed = _make(runner, planned, chosen, say)
    say(runner.remaining(planned, finished))
    if not finished and failed:
        raise UserError(failed[0])
    if not finished:
        return None
    notes = [spec.note] if spec.note else []
    notes += [f"{name} is not in this installation; its rows are left out." for name in lacking]
    notes += [f"Failed: {line}" for line in failed]
    notes += [f"{need.name}: {need.note}." for need in needed if need.note]
    notes += [f"Only the first {limit} images were evaluated: figures are not as published."] if limit else []
    given = [f"--rows {rows}"] if rows != "all" else []  # no paths, and nothing that changes no figure
    given += ["--data-root FOLDER"] if scale == "paper" else []
    given += [f"--weights {name}=PATH" for name in sorted(model or ())]
    given += [f"--precision {precision}"] if precision != "fp32" else []
    given += [f"--limit {limit}"] if limit else []
    command = " ".join([f"denseclip reproduce {spec.name} --scale {scale}", *given])
    report = describe(spec, scale, command, planned, finished, notes)
    write(report, out)
    return report


def join_processes(device: str) -> tuple[int, int]:
    """This process's rank, and how many `torchrun` started; they are joined into one group."""
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1 and not dist.is_initialized():
        gpu = pick_device(device).type == "cuda"
        if gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        # Words between processes go over gloo, gradients over NCCL; one may evaluate for hours while others wait.
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=timedelta(days=1))
    return rank, processes


def _make_together(runner: RowRunner, planned: Sequence[Run], chosen: Sequence[Run], rank: int) -> None:
    """Train one run after the other in all processes, then evaluate each run in one of them; counts are kept.

    What fails while training stops all processes; what fails while evaluating fails again where it is reported.
    """
    for run in chosen:
        if not runner.trained(run):
            runner.train(run)
    for run in planned[rank :: runner.processes]:
        with suppress(UserError):
            if runner.trained(run):
                runner.make(run, new=run in chosen)
    dist.barrier()


def _choose(runs: Sequence[Run], filter: str | None, seeds: int | None) -> list[Run]:
    """Those of the first seeds of each row, with a word in their names; UserError if there are none."""
    word = (filter or "").lower()
    named = [run for run in runs if word in f"{run.recipe_name} {run.name} {run.method} {run.model}".lower()]
    if not named:
        names = ", ".join(dict.fromkeys(run.recipe_name or run.method for run in runs))
        raise UserError(f"no row has {filter!r} in its name; choose one of {names}")
    return [run for run in named if seeds is None or run.seed is None or run.seed < seeds]


def _make(
    runner: RowRunner, planned: Sequence[Run], chosen: Sequence[Run], say: Callable[[str], None]
) -> tuple[dict[Key, list[FinishedRun]], list[str]]:
    """Every chosen run, and of the others those that are made already; and what failed."""
    finished: dict[Key, list[FinishedRun]] = {}
    failed = []
    for run in planned:
        begun = time.monotonic()
        try:
            before = runner.trained(run)
            one = runner.make(run, new=run in chosen)
        except UserError as error:
            failed.append(f"{run.title}: {error}")
            say(failed[-1])
            continue
        if one is not None:
            finished.setdefault(run.key, []).append(one)
        if one is not None and not before:
            say(f"{run.title}: trained and evaluated, {(time.monotonic() - begun) / 60:.1f} minutes")
    return finished, failed
