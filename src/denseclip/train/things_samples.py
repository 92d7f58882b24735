"""Training batches of images with boxes."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from denseclip.data.box_augment import BoxAugmentation, BoxView
from denseclip.data.things import ThingsDataset
from denseclip.detection.config import Instances
from denseclip.train.samples import EndlessBatches, Share

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
    """See `EndlessBatches`."""

    def __init__(
        self,
        dataset: ThingsDataset,
        augmentation: BoxAugmentation,
        share: Share,
        *,
        first: int,
        steps: int,
        seed: int,
    ) -> None:
        super().__init__(len(dataset), share, first=first, steps=steps, seed=seed)
        self.dataset, self.augmentation = dataset, augmentation

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
