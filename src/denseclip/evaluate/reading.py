"""Reading images ahead of the model."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
WORKERS, AHEAD = 2, 6  # threads that read; images they may be ahead


def read_ahead(read: Callable[[int], T], indices: Sequence[int]) -> Generator[T, None, None]:
    """`read` of every index, in order, while the caller works on those before.

    An error of `read` is raised where its turn comes. No more than `AHEAD` results wait at a time.
    """
    pool = ThreadPoolExecutor(WORKERS)  # decoding, resizing and corrupting let go of the interpreter
    waiting: deque[Future[T]] = deque()
    try:
        for index in indices:
            waiting.append(pool.submit(read, index))
            if len(waiting) == AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
