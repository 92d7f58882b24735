"""What is asked of every pixel, and the planes that answer it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Confidence = Literal["score", "probability"]


@dataclass(frozen=True)
class Ask:
    """What a decoder has to find out. confidence None: only the class ids."""

    confidence: Confidence | None
    temperature: float
    ids: torch.dtype


class Decoded(NamedTuple):
    """Class ids and, where asked for, confidence of each pixel, two planes of one shape.

    mask: (N, H, W) uint8 where all ids (and the void id) are at most 255, int32 otherwise.
    confidence: (N, H, W) float: the winner's upsampled score, or its soft-max probability in 0..1; or None.
    """

    mask: Tensor
    confidence: Tensor | None

    @classmethod
    def blank(cls, shape: tuple[int, ...], ask: Ask, like: Tensor) -> "Decoded":
        """Uninitialised planes; `like` gives device and float type."""
        mask = like.new_empty(shape, dtype=ask.ids)
        return cls(mask, None if ask.confidence is None else like.new_empty(shape))

    def write(self, where: slice | int, part: "Decoded") -> None:
        """Write the planes of `part` at `where` along the first axis."""
        self.mask[where] = part.mask
        if self.confidence is not None and part.confidence is not None:
            self.confidence[where] = part.confidence

    def scatter(self, where: Tensor, part: "Decoded") -> None:
        """Write the planes of `part` at the indices `where` (n,) along the first axis."""
        self.mask.index_copy_(0, where, part.mask.to(self.mask.dtype))
        if self.confidence is not None and part.confidence is not None:
            self.confidence.index_copy_(0, where, part.confidence)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Decoded":
        """Do the same with both planes."""
        return Decoded(change(self.mask), None if self.confidence is None else change(self.confidence))
