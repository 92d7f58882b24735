"""Pictures to network inputs, and maps back to pictures: windows, sizes, bilinear resizing in one or two steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from denseclip.clip import ImageStats
from denseclip.data.transforms import normalize
from denseclip.errors import UserError
from denseclip.segment.settings import Settings, Slide

Size = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """One network input: pixels [top, top + height) x [left, left + width) of the picture resized to `frame`."""

    frame: Size
    top: int
    left: int
    height: int
    width: int
    flip: bool = False

    def cut(self, frame: Tensor) -> Tensor:
        """The window of a resized picture (..., H, W)."""
        piece = frame[..., self.top : self.top + self.height, self.left : self.left + self.width]
        return piece.flip(-1) if self.flip else piece


def windows(frame: Size, slide: Slide | None, flip: bool) -> list[Window]:
    """The windows of one resized picture: all of it, or sliding; with `flip` also those of its mirror image."""
    if slide is None:
        boxes = [(0, 0, *frame)]
    else:
        h, w = min(slide.crop, frame[0]), min(slide.crop, frame[1])
        boxes = [(top, left, h, w) for top in slide.starts(frame[0]) for left in slide.starts(frame[1])]
    plain = [Window(frame, *box) for box in boxes]
    mirrored = [Window(frame, top, frame[1] - left - w, h, w, flip=True) for top, left, h, w in boxes]
    return plain + mirrored if flip else plain


MAX_WHOLE = 1 << 25  # pixels of one network input


def plan(size: Size, settings: Settings, stride: int) -> list[Window]:
    """The network inputs of a picture of (H, W): every scale, every window, every mirrored copy."""
    frames = dict.fromkeys(_frame(size, scale, settings, stride) for scale in settings.scales)
    cuts = []
    for frame in frames:
        if settings.slide is None and frame[0] * frame[1] > MAX_WHOLE:
            raise UserError(
                f"{frame[1]} x {frame[0]} pixels are too many for one network input; "
                "give --slide 512/341 or a smaller --resize"
            )
        cuts += windows(frame, settings.slide, settings.flip)
    return cuts


def _frame(size: Size, scale: float, settings: Settings, stride: int) -> Size:
    """The picture's size at one scale, in whole cells of the network unless the quirks say otherwise."""
    height, width = settings.resize.target(*size, scale)
    if not settings.compat.free_size:
        height, width = _whole_cells(height, stride), _whole_cells(width, stride)
    return max(height, stride), max(width, stride)


def resized(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """An (H, W, 3) picture at another size, bilinear."""
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR))


def network_inputs(image: NDArray[np.uint8], cuts: list[Window], stats: ImageStats) -> list[Tensor]:
    """The normalized inputs (3, h, w) float32 of an (H, W, 3) uint8 picture."""
    frames: dict[Size, Tensor] = {}
    for frame in {cut.frame for cut in cuts}:
        pixels: NDArray[Any] = image
        if frame != image.shape[:2]:
            pixels = resized(image, frame)
        frames[frame] = normalize(pixels, stats.mean, stats.std)
    return [cut.cut(frames[cut.frame]) for cut in cuts]


class Ready(NamedTuple):
    """A picture that waits for its turn.

    image: (H, W, 3) uint8 RGB. levels: the same in page-locked memory, from where a GPU fetches it by itself; None
    for a CPU.
    """

    image: NDArray[np.uint8]
    levels: Tensor | None

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, 3)."""
        return self.image.shape

    @property
    def size(self) -> Size:
        """(H, W)."""
        return self.image.shape[0], self.image.shape[1]

    @classmethod
    def on(cls, device: torch.device, image: NDArray[np.uint8]) -> "Ready":
        """A picture for a device."""
        if device.type == "cpu":
            return cls(image, None)
        levels = torch.empty(image.shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
        np.copyto(levels.numpy(), image)
        return cls(image, levels)


def network_inputs_on(
    device: torch.device, pictures: list[Ready], cuts: list[Window], stats: ImageStats
) -> list[Tensor]:
    """The inputs (B, 3, h, w) of pictures of one size, one for each cut, resized and normalized on a device.

    Pixels travel as uint8, on a GPU beside its work for the pictures before. Resized ones are those of
    `network_inputs`; other builds of OpenCV may be one level of 255 apart.
    """
    beside = _uploads(device) if device.type == "cuda" else None
    with torch.cuda.stream(beside):  # None: as if it were not there
        pixels = torch.empty((len(pictures), *pictures[0].shape), dtype=torch.uint8, device=device)
        for place, picture in enumerate(pictures):
            levels = torch.from_numpy(picture.image) if picture.levels is None else picture.levels
            pixels[place].copy_(levels, non_blocking=True)  # (H, W, 3)
        center, scale = _moments(stats, device)
        frames: dict[Size, Tensor] = {}
        for frame in {cut.frame for cut in cuts}:
            resized = pixels if frame == pictures[0].shape[:2] else _resize_levels(pixels, frame)
            frames[frame] = ((resized - center) / scale).permute(0, 3, 1, 2)  # (B, 3, H', W'), channels last
    if beside is not None:
        main = torch.cuda.current_stream(device)
        main.wait_stream(beside)
        for one in frames.values():
            one.record_stream(main)
    return [cut.cut(frames[cut.frame]) for cut in cuts]


@lru_cache(maxsize=16)
def _uploads(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@lru_cache(maxsize=16)
def _moments(stats: ImageStats, device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values).mul_(255).to(device) for values in (stats.mean, stats.std))
    return mean, std


def _resize_levels(pixels: Tensor, size: Size) -> Tensor:
    """Bilinear resize of (B, H, W, 3) uint8 to (B, H', W', 3) int32 in OpenCV's arithmetic: 11 bits a weight."""
    (x0, x1), (a0, a1) = _fixed_point(pixels.shape[2], size[1], pixels.device, inside=True)
    (y0, y1), (b0, b1) = _fixed_point(pixels.shape[1], size[0], pixels.device, inside=False)
    wide = pixels.int()
    across = wide.index_select(2, x0).mul_(a0[:, None])
    across = across.addcmul_(wide.index_select(2, x1), a1[:, None]) >> 4  # (B, H, W', 3)
    down = across.index_select(1, y0).mul_(b0[:, None, None]) >> 16
    return (down.add_(across.index_select(1, y1).mul_(b1[:, None, None]) >> 16).add_(2)) >> 2


@lru_cache(maxsize=512)
def _fixed_point(n_in: int, n_out: int, device: torch.device, *, inside: bool) -> tuple[Tensor, Tensor]:
    """Both input lines (2, n_out) of each output line, and their weights (2, n_out) in 1 / 2048.

    inside: beyond the border the outermost line has all the weight; else both lines are it, and share the weight.
    """
    place = ((np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int64)
    part = (place - first).astype(np.float32)
    if inside:
        part[(first < 0) | (first >= n_in - 1)] = 0
    lines = np.stack([first, first + 1]).clip(0, n_in - 1)
    weights = np.rint(np.stack([1 - part, part]) * np.float32(2048)).astype(np.int32)
    return torch.from_numpy(lines).to(device), torch.from_numpy(weights).to(device)


def _whole_cells(length: int, stride: int) -> int:
    return max(1, round(length / stride)) * stride


@dataclass(frozen=True, eq=False)
class Taps:
    """Output line i of a resize is `sum_t weight[i, t] * input[first[i] + t]`.

    first: (L,) int64. weight: (L, T), non-negative, rows sum to one. T is 2 for one enlargement, 3 for two in
    a row, 1 where nothing is mixed.
    """

    first: Tensor
    weight: Tensor

    @property
    def width(self) -> int:
        """T, how many neighboring input lines one output line may mix."""
        return self.weight.shape[1]

    def lines(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Input lines (P, T) int64 and their weights (P, T) of some output lines (P,)."""
        return self.first[output, None] + torch.arange(self.width, device=output.device), self.weight[output]


@lru_cache(maxsize=64)  # pictures of one size come in numbers
def taps(n_in: int, n_out: int, via: int | None, dtype: torch.dtype, device: torch.device) -> Taps:
    """Taps of one axis of a bilinear resize, n_in -> (via ->) n_out lines.

    The weights are read off `resize` itself, applied to the identity: its rounding, its rule at the borders
    and any chain of steps are then the same.
    """
    eye = torch.eye(n_in, device=device, dtype=dtype)[None, :, :, None]  # (1, n_in, n_in, 1)
    matrix = resize(eye, (n_out, 1), None if via is None else (via, 1))[0, :, :, 0].T  # (n_out, n_in)
    used = (matrix != 0).int()
    first, last = used.argmax(1), n_in - 1 - used.flip(1).argmax(1)  # (n_out,)
    width = int((last - first).max()) + 1
    first = first.clamp(max=n_in - width)
    return Taps(first, matrix.gather(1, first[:, None] + torch.arange(width, device=device)))


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


def axes(scores: Tensor, size: Size, via: Size | None) -> tuple[Taps, Taps]:
    """Row and column taps that take maps (.., h, w) to `size`, through `via` if given."""
    h, w = scores.shape[-2:]
    high, wide = via or (None, None)
    kind = scores.dtype, scores.device
    return taps(h, size[0], high, *kind), taps(w, size[1], wide, *kind)


def resize(maps: Tensor, size: Size, via: Size | None = None) -> Tensor:
    """Bilinear resize (align_corners=False) of (N, C, h, w) to (N, C, H, W), in two steps with `via`."""
    for step in (via, size):
        if step is not None:
            maps = F.interpolate(maps, size=step, mode="bilinear")
    return maps


def heatmaps(scores: Tensor, classes: Sequence[int], size: Size, *, via: Size | None = None) -> Tensor:
    """Upsampled scores of a few classes.

    scores: (N, K, h, w) cosines, or what key smoothing made of them. classes: C ids. size: (H, W) in pixels.
    via: size of the network's input for the official two-step resize. Returns (N, C, H, W) float32 (float64
    for float64 scores).
    """
    return resize(wide(scores[:, list(classes)]), size, via)


def scores_at(scores: Tensor, points: Tensor, size: Size, *, via: Size | None = None) -> Tensor:
    """Upsampled scores of all classes at single pixels.

    scores, size, via: as in `heatmaps`. points: (P, 2) int64, row and column of pixels of the (H, W) picture.
    Returns (N, P, K) float32 (float64 for float64 scores), the values that a full-size resize would have.
    """
    scores = wide(scores)
    rows, columns = axes(scores, size, via)
    points = points.to(scores.device)
    (y, wy), (x, wx) = rows.lines(points[:, 0]), columns.lines(points[:, 1])
    nodes = scores[:, :, y[:, :, None], x[:, None, :]]  # (N, K, P, Ty, Tx)
    return (nodes * wy[:, :, None] * wx[:, None, :]).sum((-2, -1)).transpose(1, 2)


def wide(scores: Tensor) -> Tensor:
    """16-bit scores as float32, wider ones as they are."""
    assert scores.is_floating_point(), scores.dtype
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
