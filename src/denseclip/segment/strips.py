"""Output lines of a resize, gathered into short runs that read the same input lines."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from denseclip.segment.resample import Taps

STRIP_LINES = 64  # most lines of one strip


@dataclass(frozen=True)
class Strips:
    """Runs of output lines that read one window of input lines, padded to the same number of slots R.

    window: (M,) first input line of each strip. weight: (M, T, R), zero in unused slots.
    first: (M + 1,) first output line of each strip, and the end. place: (L,) slot of each line, among M * R.
    """

    window: Tensor
    weight: Tensor
    first: Tensor
    place: Tensor

    def __len__(self) -> int:
        return len(self.window)

    @property
    def taps(self) -> int:
        """T, the input lines of a window."""
        return self.weight.shape[1]

    @property
    def slots(self) -> int:
        """R, the most output lines of a strip."""
        return self.weight.shape[2]

    def some(self, start: int, stop: int) -> "Strips":
        """Strips start..stop, as if there were no others; `first` still counts from the top."""
        first, last = int(self.first[start]), int(self.first[stop])
        place = self.place[first:last] - start * self.slots
        return Strips(self.window[start:stop], self.weight[start:stop], self.first[start : stop + 1], place)


@lru_cache(maxsize=64)  # as the taps
def strips(axis: Taps, n_in: int) -> Strips:
    """Cut an axis at every change of window, and long runs (the clamped borders) into usual lengths."""
    lines = len(axis.first)
    slots = min(-(-lines // n_in), STRIP_LINES)
    index = torch.arange(lines, device=axis.first.device)
    fresh = torch.ones_like(index, dtype=torch.bool)
    fresh[1:] = axis.first[1:] != axis.first[:-1]
    run = torch.where(fresh, index, 0).cummax(0).values
    fresh |= (index - run) % slots == 0
    first, strip = fresh.nonzero()[:, 0], fresh.cumsum(0) - 1  # (M,), (L,)
    slot = index - first[strip]
    weight = axis.weight.new_zeros(len(first), axis.width, slots)
    weight[strip, :, slot] = axis.weight
    ends = torch.cat([first, first.new_tensor([lines])])
    return Strips(axis.first[first], weight, ends, strip * slots + slot)
