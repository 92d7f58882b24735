"""Where the pictures of a job are labeled: here, or on a Ray cluster."""

import json
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from denseclip.errors import UserError, need
from denseclip.label.labelled import Labeler
from denseclip.label.sources import Item
from denseclip.label.stages import Outcome, Plan, Stages, Task, outcome
from denseclip.segment.devices import Spread

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
