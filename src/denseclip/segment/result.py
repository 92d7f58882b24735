"""The answer for one picture: which word at every pixel."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from denseclip import outputs
from denseclip.errors import UserError
from denseclip.io import atomic_path, write_text
from denseclip.segment import paint


@dataclass(frozen=True)
class Segmentation:
    """Masks and scores of a picture of H x W pixels under K classes.

    mask: (H, W) uint8 (int32 from 256 classes on), index into `classes`; `void` where nothing was predicted.
    confidence: (H, W) float32 or None: soft-max probability of the winner (its score under key smoothing).
    scores: (K, h, w) float32 before decoding, on the network's coarse map (an eighth of the picture if several
    network inputs were averaged); a background that is only a threshold has no scores.
    image: (H, W, 3) uint8 RGB, what was segmented.
    """

    mask: NDArray[np.integer]
    classes: tuple[str, ...]
    scores: Tensor
    image: NDArray[np.uint8]
    confidence: NDArray[np.float32] | None
    scored: tuple[str, ...]
    heat_of: Callable[[int], NDArray[np.float32]]
    has_background: bool = False
    void: int | None = None

    @property
    def palette(self) -> NDArray[np.uint8]:
        """(K, 3) uint8: the colour of each class."""
        return paint.vivid_palette(len(self.classes), background=self.has_background)

    @cached_property
    def areas(self) -> dict[str, int]:
        """Pixels of each class that occurs, the largest first."""
        ids, counts = np.unique(self.mask, return_counts=True)
        pairs = [(self.classes[i], int(n)) for i, n in zip(ids, counts, strict=True) if i < len(self.classes)]
        return dict(sorted(pairs, key=lambda pair: -pair[1]))

    def heatmap(self, name: str) -> NDArray[np.float32]:
        """The score of one class at every pixel, (H, W) float32; UserError if the class has none."""
        if name not in self.scored:
            raise UserError(f"no scores for {name!r}; choose one of {', '.join(self.scored[:20])}")
        return self.heat_of(self.scored.index(name))

    def heat_overlay(self, name: str) -> Image.Image:
        """The picture under the heat map of one class, blue low and red high."""
        return Image.fromarray(paint.heat(self.image, self.heatmap(name)))

    def overlay(self, *, opacity: float = 0.55, legend: bool = True) -> Image.Image:
        """The picture under its mask, with the names of the classes that occur."""
        clear = 0 if self.has_background else None
        palette = self.palette
        painted = paint.overlay(self.image, self.mask, palette, opacity=opacity, clear=clear)
        if not legend:
            return Image.fromarray(painted)
        names = [name for name in self.areas if not (self.has_background and name == self.classes[0])]
        colours = [(name, palette[self.classes.index(name)].tolist()) for name in names]
        return paint.with_legend(painted, colours)

    def indexed(self) -> Image.Image:
        """The mask as a picture whose pixel values are class ids, with a palette (16-bit grey above 256 classes)."""
        return paint.indexed(self.mask, self.palette, self.void)

    def save(self, folder: Path | str, stem: str = "picture", *, heatmaps: bool = False) -> list[Path]:
        """Write STEM.png (mask), STEM-overlay.png, classes.json and, if asked for, STEM-heat-CLASS.png.

        Returns the paths. Files of ours of these names are replaced, each atomically; UserError for any other.
        """
        folder = Path(folder)
        outputs.mark(folder, "save")
        pictures = {f"{stem}.png": self.indexed(), f"{stem}-overlay.png": self.overlay()}
        if heatmaps:
            for name, suffix in zip(self.scored, heat_suffixes(self.scored), strict=True):
                pictures[stem + suffix] = self.heat_overlay(name)
        written = []
        for name, picture in pictures.items():
            with atomic_path(folder / name) as temporary:
                picture.save(temporary)
            written.append(folder / name)
        write_text(folder / "classes.json", json.dumps(dict(enumerate(self.classes)), indent=1) + "\n")
        return [*written, folder / "classes.json"]


def heat_suffixes(names: Sequence[str]) -> list[str]:
    """How the files of the heat maps of these classes end; no two alike, not even of C++ and C#."""
    found: list[str] = []
    for name in names:
        word, number = file_word(name), 1
        while (suffix := f"-heat-{word}.png" if number == 1 else f"-heat-{word}-{number}.png") in found:
            number += 1
        found.append(suffix)
    return found


def file_word(name: str) -> str:
    """A class name as part of a file name."""
    kept = "".join(c if c.isalnum() else "-" for c in name.strip().lower())
    return "-".join(part for part in kept.split("-") if part)[:60] or "class"
