"""Training batches: what a batch holds depends on the seed and the optimizer step only."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from denseclip.clip.clip import ImageStats
from denseclip.data.datasets import UNLABELED, SegmentationDataset
from denseclip.data.instances import BoxAugmentation, BoxView, InstanceDataset
from denseclip.data.transforms import Augmentation, View, pad
from denseclip.detection.config import Instances
from denseclip.errors import UserError

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


HIDDEN = UNLABELED
S = TypeVar("S")


class AnyBatch(Protocol):
    """What the loop asks of a batch. skipped: images that could not be read, each with the reason."""

    @property
    def skipped(self) -> tuple[str, ...]: ...  # noqa: D102

    def to(self, device: torch.device) -> Self: ...  # noqa: D102


class Padded(Protocol):
    """Pictures, and what of them is not padding, see `Batch`."""

    @property
    def images(self) -> Tensor: ...  # noqa: D102

    @property
    def extent(self) -> Tensor: ...  # noqa: D102


@dataclass  # not frozen: Fabric takes it apart and puts it together again
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


def normalized(batch: Padded, stats: ImageStats) -> Tensor:
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
    """Which part of each optimizer step's images a process works on: `rank` of `world`, in `accumulate` parts."""

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
        """Positions, in the endless row of training images, of part `part` of optimizer step `step` (from 0)."""
        size = self.batch // (self.accumulate * self.world)
        first = step * self.batch + (part * self.world + self.rank) * size
        return range(first, first + size)


class EndlessBatches(Dataset[T | UserError]):
    """Item i is part i % accumulate of optimizer step first + i // accumulate, of a row of images without end.

    images: how many there are. skip_bad: an image that cannot be read gives way to the next one.
    """

    def __init__(
        self, images: int, share: Share, *, first: int, steps: int, seed: int, skip_bad: bool = False
    ) -> None:
        self.images, self.share, self.skip_bad = images, share, skip_bad
        self.first, self.steps, self.seed = first, steps, seed
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        return (self.steps - self.first) * self.share.accumulate

    def __getitem__(self, item: int) -> "T | UserError":
        """The batch, or what is wrong with an image in it, unless skip_bad."""
        if item >= len(self):
            raise IndexError(item)
        try:
            return self.batch(item)
        except UserError as error:  # raised in a worker it would arrive with a traceback in its message
            return error

    @abstractmethod
    def batch(self, item: int) -> T:
        """The batch; UserError for an image that cannot be used, unless skip_bad."""

    def positions(self, item: int) -> Sequence[int]:
        """Which of the row's images are in an item."""
        step, part = divmod(item, self.share.accumulate)
        return self.share.positions(self.first + step, part)

    def read(self, position: int, read: Callable[[int], S], skipped: list[str]) -> tuple[int, S]:
        """Image number and content at a position of the row; what is skipped on the way is added to the list."""
        index = self._index(position)
        for attempt in range(self.images):
            try:
                return index, read(index)
            except UserError as error:
                if not self.skip_bad:
                    raise
                skipped.append(str(error))
                if attempt == self.images - 1:
                    raise UserError(f"no image can be used; the last: {error}") from None
                index = (index + 1) % self.images
        raise AssertionError("there are no images")

    def rng(self, position: int) -> np.random.Generator:
        """The random stream of the image at a position."""
        return np.random.default_rng([self.seed, position])

    def _index(self, position: int) -> int:
        """Every image once an epoch, in an order of the epoch's own."""
        epoch, place = divmod(position, self.images)
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, 7, epoch]).permutation(self.images)
        return int(self._order[1][place])


class TrainingBatches(EndlessBatches[Batch]):
    """Crops with labels.

    hidden: classes whose pixels become `HIDDEN`. everywhere: all pixels do, whatever the annotation says.
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
        super().__init__(len(dataset), share, first=first, steps=steps, seed=seed, skip_bad=skip_bad)
        self.dataset, self.augmentation = dataset, augmentation
        self.hidden, self.everywhere = hidden, everywhere

    def batch(self, item: int) -> Batch:
        """See `EndlessBatches`."""
        skipped: list[str] = []
        made = [self._view(position, skipped) for position in self.positions(item)]
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
        index, sample = self.read(position, self.dataset.__getitem__, skipped)
        labels = hide(sample.mask, () if self.everywhere else self.hidden)
        labels = np.full_like(labels, HIDDEN) if self.everywhere else labels
        ignore = self.dataset.spec.ignore_index
        return index, self.augmentation(sample.image, labels, ignore, self.rng(position))


def hide(labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Labels (H, W) as int32, those of some classes `HIDDEN`."""
    labels = labels.astype(np.int32)
    labels[np.isin(labels, list(classes))] = HIDDEN
    return labels


def load_batches(batches: EndlessBatches[T], workers: int) -> Iterator[T]:
    """The batches in order, made ahead of time by `workers` processes; UserError for an image that is bad."""
    for batch in in_order(batches, workers):
        if isinstance(batch, UserError):
            raise batch
        yield batch


DIVISOR = 32  # of the sides of a batch: its coarsest map is whole cells


@dataclass  # not frozen: Fabric takes it apart and puts it together again
class ThingsBatch:
    """B images of S x T pixels.

    images: (B, 3, S, T) uint8 RGB, black where padded. extent: (B, 2) rows and columns that are not padding.
    instances: of each, masks padded like the image. skipped: images that could not be read, each with the reason.
    """

    images: Tensor
    extent: Tensor
    instances: tuple[Instances, ...]
    skipped: tuple[str, ...] = ()

    def to(self, device: torch.device) -> "ThingsBatch":
        """The same batch on a device."""
        images, extent = (one.to(device, non_blocking=True) for one in (self.images, self.extent))
        return ThingsBatch(images, extent, tuple(one.to(device) for one in self.instances), self.skipped)

    def first(self, count: int) -> "ThingsBatch":
        """The first images."""
        return ThingsBatch(self.images[:count], self.extent[:count], self.instances[:count])


class ThingsBatches(EndlessBatches[ThingsBatch]):
    """See `EndlessBatches`. The images of a step are dealt to processes and parts by shape, so that little is padded.

    The published code takes images of one orientation for a GPU; which images make a step is the same here.
    """

    def __init__(
        self,
        dataset: InstanceDataset,
        augmentation: BoxAugmentation,
        share: Share,
        *,
        first: int,
        steps: int,
        seed: int,
    ) -> None:
        super().__init__(len(dataset), share, first=first, steps=steps, seed=seed)
        self.dataset, self.augmentation = dataset, augmentation

    def positions(self, item: int) -> Sequence[int]:
        """See `EndlessBatches`; of the step's images by width over height, those that are this part's turn."""
        share, own = self.share, super().positions(item)
        if len(own) == share.batch:
            return own
        first = (self.first + item // share.accumulate) * share.batch
        row = sorted(range(first, first + share.batch), key=lambda at: self.dataset.shape(self._index(at)))
        return row[own[0] - first : own[-1] + 1 - first]

    def batch(self, item: int) -> ThingsBatch:
        """See `EndlessBatches`."""
        views = []
        for position in self.positions(item):
            _, sample = self.read(position, self.dataset.__getitem__, [])
            views.append(self.augmentation(sample, self.rng(position)))
        return collate(views)


def collate(views: list[BoxView]) -> ThingsBatch:
    """Padded to the largest side along each axis, rounded up to whole cells."""
    sizes = np.array([view.image.shape[:2] for view in views])
    height, width = (-(-int(side) // DIVISOR) * DIVISOR for side in sizes.max(0))
    images = torch.zeros(len(views), 3, height, width, dtype=torch.uint8)
    for target, view in zip(images, views, strict=True):
        h, w = view.image.shape[:2]
        target[:, :h, :w] = torch.from_numpy(view.image).permute(2, 0, 1)
    instances = tuple(_instances(view, height, width) for view in views)
    return ThingsBatch(images, torch.from_numpy(sizes), instances)


def _instances(view: BoxView, height: int, width: int) -> Instances:
    boxes, labels = torch.from_numpy(view.boxes), torch.from_numpy(view.labels)
    if view.masks is None:
        return Instances(boxes, labels)
    h, w = view.image.shape[:2]
    masks = torch.zeros(len(labels), height, width, dtype=torch.uint8)
    masks[:, :h, :w] = torch.from_numpy(view.masks)
    return Instances(boxes, labels, masks)
