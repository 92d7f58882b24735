"""Training batches: what a batch holds depends on the seed and the optimiser step only."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from denseclip.clip.clip import ImageStats
from denseclip.data.augment import Augmentation, View, pad
from denseclip.data.datasets import SegmentationDataset
from denseclip.data.labels import UNLABELLED
from denseclip.errors import UserError

HIDDEN = UNLABELLED


@dataclass(frozen=True)
class Batch:
    """B training crops of S x T pixels.

    images: (B, 3, S, T) uint8 RGB, black where padded. extent: (B, 2) rows and columns that are not padding.
    labels: (B, S, T) int64: a class, `HIDDEN`, or the data set's `ignore_index`. index: (B,) image numbers.
    geometry: (B, 5) int64: frame height, frame width, top, left, mirrored, see `View`. skipped: images that could
    not be read, each with the reason.
    """

    images: Tensor
    extent: Tensor
    labels: Tensor
    index: Tensor
    geometry: Tensor
    skipped: tuple[str, ...] = ()

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        tensors = (self.images, self.extent, self.labels, self.index, self.geometry)
        images, extent, labels, index, geometry = (tensor.to(device, non_blocking=True) for tensor in tensors)
        return Batch(images, extent, labels, index, geometry, self.skipped)

    def first(self, count: int) -> "Batch":
        """The first crops."""
        return self.split(count)[0]

    def split(self, size: int) -> "list[Batch]":
        """Parts of at most `size` crops."""
        tensors = (self.images, self.extent, self.labels, self.index, self.geometry)
        return [Batch(*part) for part in zip(*(tensor.split(size) for tensor in tensors), strict=True)]


def normalised(batch: Batch, stats: ImageStats) -> Tensor:
    """Float32 (B, 3, S, T), channels last in memory: (pixel / 255 - mean) / std, and 0 where padded."""
    images = batch.images
    mean, std = (
        torch.tensor(v, device=images.device).view(1, 3, 1, 1) * 255 for v in (stats.mean, stats.std)
    )
    x = (images.float() - mean) / std
    rows = torch.arange(x.shape[2], device=x.device)[None, :] < batch.extent[:, :1]  # (B, S)
    columns = torch.arange(x.shape[3], device=x.device)[None, :] < batch.extent[:, 1:]  # (B, T)
    x = x * (rows[:, None, :, None] & columns[:, None, None, :])
    return x.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Share:
    """Which part of each optimiser step's images a process works on: `rank` of `world`, in `accumulate` parts."""

    batch: int
    accumulate: int = 1
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch % (self.accumulate * self.world):
            raise UserError(
                f"batch = {self.batch} does not divide into {self.world} processes x accumulate = "
                f"{self.accumulate}; change one of them"
            )

    def positions(self, step: int, part: int) -> range:
        """Positions, in the endless row of training images, of part `part` of optimiser step `step` (from 0)."""
        size = self.batch // (self.accumulate * self.world)
        first = step * self.batch + (part * self.world + self.rank) * size
        return range(first, first + size)


class TrainingBatches(Dataset["Batch | UserError"]):
    """Item i is part i % accumulate of optimiser step first + i // accumulate.

    hidden: classes whose pixels become `HIDDEN`. everywhere: all pixels do, whatever the annotation says.
    skip_bad: an image that cannot be read gives way to the next one.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        augmentation: Augmentation,
        share: Share,
        *,
        first: int,
        steps: int,
        seed: int,
        hidden: tuple[int, ...] = (),
        everywhere: bool = False,
        skip_bad: bool = False,
    ) -> None:
        self.dataset, self.augmentation, self.share = dataset, augmentation, share
        self.first, self.steps, self.seed = first, steps, seed
        self.hidden, self.everywhere, self.skip_bad = hidden, everywhere, skip_bad
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        return (self.steps - self.first) * self.share.accumulate

    def __getitem__(self, item: int) -> "Batch | UserError":
        """The batch, or what is wrong with an image in it, unless skip_bad."""
        if item >= len(self):
            raise IndexError(item)
        try:
            return self.batch(item)
        except UserError as error:  # raised in a worker it would arrive with a traceback in its message
            return error

    def batch(self, item: int) -> Batch:
        """The batch; UserError for an image that cannot be used, unless skip_bad."""
        step, part = divmod(item, self.share.accumulate)
        skipped: list[str] = []
        made = [self._view(position, skipped) for position in self.share.positions(self.first + step, part)]
        crop, ignore = self.augmentation.crop, self.dataset.spec.ignore_index
        views = [view for _, view in made]
        padded = [pad(view.image, view.labels, crop, ignore) for view in views]
        return Batch(
            images=torch.from_numpy(np.stack([image for image, _ in padded]))
            .permute(0, 3, 1, 2)
            .contiguous(),
            extent=torch.tensor([view.labels.shape for view in views]),
            labels=torch.from_numpy(np.stack([labels for _, labels in padded]).astype(np.int64)),
            index=torch.tensor([index for index, _ in made]),
            geometry=torch.tensor([[*v.frame, v.top, v.left, int(v.mirrored)] for v in views]),
            skipped=tuple(skipped),
        )

    def _view(self, position: int, skipped: list[str]) -> tuple[int, View]:
        rng = np.random.default_rng([self.seed, position])
        index = self._index(position)
        for attempt in range(len(self.dataset)):
            try:
                sample = self.dataset[index]
                break
            except UserError as error:
                if not self.skip_bad:
                    raise
                skipped.append(str(error))
                if attempt == len(self.dataset) - 1:
                    raise UserError(f"no image can be used; the last: {error}") from None
                index = (index + 1) % len(self.dataset)
        labels = self._hide(sample.mask.astype(np.int32))
        return index, self.augmentation(sample.image, labels, self.dataset.spec.ignore_index, rng)

    def _index(self, position: int) -> int:
        """Every image once an epoch, in an order of the epoch's own."""
        epoch, place = divmod(position, len(self.dataset))
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, 7, epoch]).permutation(len(self.dataset))
        return int(self._order[1][place])

    def _hide(self, labels: np.ndarray) -> np.ndarray:
        if self.everywhere:
            return np.full_like(labels, HIDDEN)
        if self.hidden:
            labels[np.isin(labels, self.hidden)] = HIDDEN
        return labels


def load_batches(batches: TrainingBatches, workers: int) -> Iterator[Batch]:
    """The batches in order, made ahead of time by `workers` processes; UserError for an image that is bad."""
    loader = DataLoader(
        batches,
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread,
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def _one_thread(worker: int) -> None:
    import cv2

    del worker
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
