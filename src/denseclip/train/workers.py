"""Items of a data set made ahead of time by other processes."""

from collections.abc import Iterator
from typing import TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")


def in_order(items: Dataset[T], workers: int) -> Iterator[T]:
    """The items, first to last, made by `workers` processes; 0 for here, when they are asked for."""
    if workers:
        cv2.setNumThreads(1)  # a forked worker would wait for ever for the threads of OpenCV that it lacks
    loader = DataLoader(
        items,
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread,
    )
    return iter(loader)


def _one_thread(worker: int) -> None:
    del worker
    torch.set_num_threads(1)
