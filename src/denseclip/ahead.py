"""Working ahead in threads, in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def work_ahead(
    work: Callable[[S], T], items: Iterable[S], *, workers: int, waiting: int
) -> Generator[T, None, None]:
    """`work` of every item, in order, done by threads while the caller is busy with other results.

    Items are taken by the caller's thread. No more than `waiting` results are under way or wait at a time. An
    error of `work` is raised where its turn comes.
    """
    pool = ThreadPoolExecutor(workers)  # decoders, OpenCV and torch let go of the interpreter
    queue: deque[Future[T]] = deque()
    try:
        for item in items:
            queue.append(pool.submit(work, item))
            if len(queue) == waiting:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
