"""The one pipeline of all commands: pictures are read ahead, encoded in batches of one shape, finished in threads;
on several devices in a process each.

Results come in the order of the items, and what waits is bounded, so memory does not grow with the pictures.
"""

import multiprocessing
import os
import pickle
import queue
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from denseclip.clip.device import pick_device
from denseclip.errors import UserError
from denseclip.io import prefetch
from denseclip.outputs import ForeignFileError

Item = TypeVar("Item")  # what names a picture
Picture = TypeVar("Picture")
Encoded = TypeVar("Encoded")
Result = TypeVar("Result")
A = TypeVar("A")

LOOK_AHEAD = 4  # batches that are read before pictures of one shape are put together
MOST_WORKERS = 8


def default_batch(device: torch.device) -> int:
    """Pictures encoded together: several on a GPU; one on a CPU, where no figure then depends on its neighbors."""
    return 16 if device.type == "cuda" else 1


@dataclass(frozen=True)
class Engine(Generic[Item, Picture, Encoded, Result]):
    """How an item becomes a result.

    read: in threads, the picture of an item. encode: in the caller's thread, pictures of one shape, as many results.
    finish: in threads, the result of an item and what was encoded. batch: pictures per call of `encode`, at most.
    shape: what pictures of one batch have in common. workers: threads that read, and threads that finish; None: by
    the machine.
    """

    read: Callable[[Item], Picture]
    encode: Callable[[list[Picture]], list[Encoded]]
    finish: Callable[[Item, Encoded], Result]
    batch: int = 1
    shape: Callable[[Any], Hashable] = lambda picture: picture.shape
    workers: int | None = None

    def run(self, items: Iterable[Item]) -> Generator[tuple[Item, Result | UserError], None, None]:
        """Every item with its result, in order, or with the reason why it has none: of any stage, or of memory.

        What is no fault of a picture, such as a disk that is full, is raised.
        """
        workers = self.workers or max(1, min(MOST_WORKERS, (os.cpu_count() or 2) // 2))
        ahead = workers + max(3, self.batch * LOOK_AHEAD if self.batch > 1 else 0)
        with (
            closing(prefetch(self._read, items, workers=workers, waiting=ahead)) as pictures,
            closing(
                prefetch(
                    self._finish, self._encode(pictures), workers=workers, waiting=workers + 2 * self.batch
                )
            ) as results,
        ):
            yield from results

    def one(self, item: Item) -> Result | UserError:
        """The result of one item, all in this thread."""
        return self._finish(next(self._encode(iter([self._read(item)]))))[1]

    def _read(self, item: Item) -> tuple[Item, Picture | UserError]:
        return item, attempt(lambda: self.read(item), item)

    def _finish(self, given: tuple[Item, Encoded | UserError]) -> tuple[Item, Result | UserError]:
        item, encoded = given
        if isinstance(encoded, UserError):
            return item, encoded
        return item, attempt(lambda: self.finish(item, encoded), item)

    def _encode(
        self, pictures: Iterator[tuple[Item, Picture | UserError]]
    ) -> Iterator[tuple[Item, Encoded | UserError]]:
        groups: dict[Hashable, list[int]] = {}  # places of pictures of one shape that wait for a batch
        waiting: dict[int, tuple[Item, Picture]] = {}
        done: dict[int, tuple[Item, Encoded | UserError]] = {}
        first = 0  # place of the next result

        def encode(shape: Hashable) -> None:
            places = groups.pop(shape)
            part = [waiting.pop(place) for place in places]
            encoded = self._batch(part)
            done.update((place, (one[0], new)) for place, one, new in zip(places, part, encoded, strict=True))

        for place, (item, picture) in enumerate(pictures):
            if isinstance(picture, UserError):
                done[place] = item, picture
            else:
                shape = self.shape(picture) if self.batch > 1 else None
                waiting[place] = item, picture
                groups.setdefault(shape, []).append(place)
                if len(groups[shape]) == self.batch:
                    encode(shape)
                elif place - first >= self.batch * LOOK_AHEAD:  # the oldest has waited long enough
                    encode(next(shape for shape, places in groups.items() if first in places))
            while first in done:
                yield done.pop(first)
                first += 1
        for shape in list(groups):
            encode(shape)
        yield from (done[place] for place in sorted(done))

    def _batch(self, batch: list[tuple[Item, Any]]) -> list[Encoded | UserError]:
        """Encode pictures together; one by one if that fails, so that the fault is its picture's alone."""
        found = attempt(lambda: self.encode([picture for _, picture in batch]), batch[0][0])
        if not isinstance(found, UserError):
            return list(found)
        return [found] if len(batch) == 1 else [each for one in batch for each in self._batch([one])]


def attempt(work: Callable[[], A], item: object) -> A | UserError:
    """What the work gives, or why this picture cannot be used. Errors of writing are not the picture's."""
    try:
        return work()
    except ForeignFileError:
        raise
    except UserError as error:
        return error
    except MemoryError:
        pass
    except RuntimeError as error:  # torch's errors of memory have no class of their own on a CPU
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
    return UserError(
        f"picture {item} does not fit into memory; give a smaller --resize or, unless the model is a detector, "
        "--slide 512/341"
    )


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
