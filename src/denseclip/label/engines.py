"""What is done to one picture, from its bytes to its record, and where: here, on several devices, or on Ray."""

import json
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from denseclip.errors import UserError, need
from denseclip.label.formats import make_writers
from denseclip.label.formats.base import Target, below, save
from denseclip.label.journal import SKIPPED, Record
from denseclip.label.labelled import Labeled, Labeler
from denseclip.label.sources import Item, printable
from denseclip.label.summary import measure, tile, write_overlay
from denseclip.segment.engine import Engine as PictureEngine
from denseclip.segment.engine import Spread

FULL = 65535  # of a 16-bit confidence map


class Task(NamedTuple):
    """A picture to label and its number in the job."""

    position: int
    item: Item

    def __str__(self) -> str:
        return str(self.item)


class Outcome(NamedTuple):
    """What became of a task."""

    position: int
    record: Record


def outcome(task: Task, record: Record | UserError) -> Outcome:
    """The record with the picture's names, or with the reason why there is none."""
    if isinstance(record, UserError):
        record = {SKIPPED: printable(str(record))}
    return Outcome(task.position, {"name": task.item.name, "file": task.item.file, **record})


@dataclass(frozen=True)
class Plan:
    """What is written for each picture. sheet: positions that get a tile on the contact sheet."""

    target: Target
    formats: tuple[str, ...]
    overlays: bool
    sheet: frozenset[int]


class Stages:
    """The engine of a job, whose items are tasks and whose results are records."""

    def __init__(self, labeler: Labeler, plan: Plan) -> None:
        self.labeler, self.plan = labeler, plan
        encode = partial(labeler.encode, rules=plan.target.rules)
        self.writers = make_writers(plan.formats, plan.target)
        self.engine = PictureEngine(lambda task: task.item.read(), encode, self._label, labeler.batch)

    def run(self, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
        """The outcomes, in order."""
        with closing(self.engine.run(tasks)) as results:
            yield from (outcome(*result) for result in results)

    def one(self, task: Task) -> Outcome:
        """The outcome of one task."""
        return outcome(task, self.engine.one(task))

    def _label(self, task: Task, encoded: Any) -> Record:  # noqa: ANN401
        target = self.plan.target
        picture = self.labeler.label(encoded, task.item, task.position, target.rules)
        payload = {writer.name: writer.write(picture) for writer in self.writers}
        if target.rules.confidence == "pixels":
            _save_confidence(picture, target)
        if self.plan.overlays:
            write_overlay(picture, target.out)
        record = {"height": picture.size[0], "width": picture.size[1], **measure(picture)}
        if task.position in self.plan.sheet:
            record["tile"] = tile(picture)
        return {**record, "payload": {name: value for name, value in payload.items() if value is not None}}


def _save_confidence(picture: Labeled, target: Target) -> None:
    from PIL import Image

    levels = np.rint(picture.confidence.clip(0, 1) * FULL).astype(np.uint16)
    save(
        Image.fromarray(levels), below(target.out / "confidence", picture.item.name, ".png"), compress_level=1
    )


Engine = Callable[[Plan, Iterable[Task]], Generator[Outcome, None, None]]


@dataclass(frozen=True)
class LocalEngine:
    """This machine."""

    labeler: Labeler

    def __call__(self, plan: Plan, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
        """The outcomes, in order."""
        return Stages(self.labeler, plan).run(tasks)


@dataclass(frozen=True)
class DevicesEngine:
    """Several devices of this machine, a process each. load: makes the model for a device; can be pickled."""

    load: Callable[[str], Labeler]
    devices: Sequence[str]

    def __call__(self, plan: Plan, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
        """The outcomes, in order."""
        with closing(Spread(partial(_stages_on, self.load, plan), self.devices).run(tasks)) as results:
            yield from (outcome(*result) for result in results)


def _stages_on(load: Callable[[str], Labeler], plan: Plan, device: str) -> Any:  # noqa: ANN401
    return Stages(load(device), plan).engine


@dataclass(frozen=True)
class RayEngine:
    """A Ray cluster, or a local one that Ray starts: each worker holds a model and labels pictures by itself.

    load: makes the model, in each worker. address: of the cluster; None: RAY_ADDRESS, or this machine. workers:
    how many; None: one per GPU, else one per `threads` CPUs. threads: of torch in a worker, as here, so that
    labels are the same.

    A worker that dies is replaced and its pictures are done again; writing a picture twice does no harm. All
    workers must reach the job's folder and the pictures under the same paths.
    """

    load: Callable[[], Labeler]
    address: str | None = None
    workers: int | None = None
    threads: int = 1

    def __call__(self, plan: Plan, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
        """The outcomes, in the order in which they come."""
        ray = _ray()
        self._connect(ray)
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        each: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": self.threads}
        workers = self.workers or gpus or max(1, int(resources.get("CPU", 1)) // self.threads)
        rows = [{"position": task.position, "item": task.item.line()} for task in tasks]
        if not rows:
            return
        data = ray.data.from_items(rows, override_num_blocks=min(len(rows), 8 * workers + len(rows) // 64))
        done = data.map(
            _Worker,
            fn_constructor_args=(self.load, plan, self.threads),
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
            **each,
        )
        try:
            for row in done.iter_rows():
                yield Outcome(int(row["position"]), json.loads(row["record"]))
        except ray.exceptions.RayError as error:
            raise UserError(
                f"Ray gave up ({_line(error)}); mend it and run the same command again"
            ) from error

    def _connect(self, ray: Any) -> None:  # noqa: ANN401
        if ray.is_initialized():
            return
        try:
            ray.init(address=self.address, log_to_driver=False, include_dashboard=False)
        except Exception as error:  # a slow start is a bare Exception
            where = self.address or os.environ.get("RAY_ADDRESS")
            what = f"there is no Ray cluster at {where}" if where else "Ray does not start on this machine"
            cure = "check the address" if where else "try again when it is less busy"
            raise UserError(f"{what} ({_line(error)}); {cure}") from None


class _Worker:
    """In a Ray actor: a model that labels one picture at a time."""

    def __init__(self, load: Callable[[], Labeler], plan: Plan, threads: int) -> None:
        torch.set_num_threads(threads)
        self._stages = Stages(load(), plan)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        outcome = self._stages.one(Task(int(row["position"]), Item.parse(row["item"])))
        return {"position": outcome.position, "record": json.dumps(outcome.record, ensure_ascii=False)}


def _line(error: Exception) -> str:
    """The last line of a message: of a remote traceback, what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:160] if lines else type(error).__name__


def _ray() -> Any:  # noqa: ANN401
    need("ray", "engine ray")
    import ray
    import ray.data

    return ray
