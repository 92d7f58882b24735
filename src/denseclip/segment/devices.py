"""One job on several devices: a process each, results in the order of the items."""

import multiprocessing
import pickle
import queue
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic

import torch

from denseclip.clip.device import pick_device
from denseclip.errors import UserError
from denseclip.segment.engine import Engine, Item, Result

UNDER_WAY = 512  # items per device; an engine holds back its first results until it has read ahead
PATIENCE = 1.0  # seconds between two looks at whether the processes are alive


def parse_devices(text: str) -> tuple[str, ...]:
    """ "cuda:0,cuda:1", or a number of GPUs. Raises UserError for devices that are not there."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(names) == 1 and names[0].isdecimal():
        names = [f"cuda:{index}" for index in range(int(names[0]))]
    if not names:
        raise UserError("--devices names no device; give a number of GPUs, or cuda:0,cuda:1")
    return tuple(str(pick_device(name)) for name in names)


@dataclass(frozen=True)
class Spread(Generic[Item, Result]):
    """An engine on each device.

    start: makes the engine for a device, in its process; it and the items have to be picklable. devices: may name one
    several times.
    """

    start: Callable[[str], Engine[Item, Any, Any, Result]]
    devices: Sequence[str]

    def run(self, items: Iterable[Item]) -> Generator[tuple[Item, Result | UserError], None, None]:
        """As `Engine.run`: whoever is free takes the next item. Raises UserError if a process ends on its own."""
        context = multiprocessing.get_context("spawn")
        tasks, results = context.Queue(), context.Queue()
        threads = max(1, torch.get_num_threads() // len(self.devices))
        workers = [
            context.Process(target=_work, args=(self.start, device, threads, tasks, results), daemon=True)
            for device in self.devices
        ]
        for worker in workers:
            worker.start()
        try:
            yield from self._handed_out(iter(items), workers, tasks, results)
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.join()

    def _handed_out(
        self,
        items: Iterator[Item],
        workers: Sequence[Any],
        tasks: Any,  # noqa: ANN401
        results: Any,  # noqa: ANN401
    ) -> Iterator[tuple[Item, Result | UserError]]:
        waiting: deque[Item] = deque()  # in order, the first is the next to be handed out
        done: dict[int, Result | UserError] = {}
        first = sent = 0
        more = True
        while more or waiting:
            while more and len(waiting) < UNDER_WAY * len(workers):
                try:
                    item = next(items)
                except StopIteration:
                    more = False
                    for _ in workers:
                        tasks.put(None)
                    break
                tasks.put((sent, item))
                waiting.append(item)
                sent += 1
            if waiting and first not in done:
                number, result = self._next(workers, results)
                done[number] = result
            while first in done:
                yield waiting.popleft(), done.pop(first)
                first += 1

    def _next(self, workers: Sequence[Any], results: Any) -> tuple[int, Result | UserError]:  # noqa: ANN401
        while True:
            with suppress(queue.Empty):
                number, result = pickle.loads(results.get(timeout=PATIENCE))  # noqa: S301 - our own process's
                if number is None:
                    raise result
                return number, result
            for device, worker in zip(self.devices, workers, strict=True):
                if worker.exitcode not in (None, 0):
                    raise UserError(
                        f"the process on {device} ended (exit code {worker.exitcode}), perhaps for want of memory; "
                        "run the same command again"
                    )


def _work(
    start: Callable[[str], Engine[Any, Any, Any, Any]],
    device: str,
    threads: int,
    tasks: Any,  # noqa: ANN401
    results: Any,  # noqa: ANN401
) -> None:
    """In a process: results as they come, or the error that ends the job."""
    torch.set_num_threads(threads)
    numbers: deque[int] = deque()

    def taken() -> Iterator[Any]:
        while (task := tasks.get()) is not None:
            numbers.append(task[0])
            yield task[1]

    try:
        for _, result in start(device).run(taken()):
            results.put(_packed(numbers.popleft(), result))
    except Exception as error:
        results.put(_packed(None, error))


def _packed(number: int | None, result: object) -> bytes:
    """As bytes: tensors in a queue are only lent, and gone when their process ends."""
    return pickle.dumps((number, result))
