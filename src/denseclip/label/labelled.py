"""A picture with its labels, as the writers get it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from denseclip.data.datasets import ignore_index
from denseclip.errors import UserError
from denseclip.label.sources import Item
from denseclip.segment.regions import Regions
from denseclip.segment.segmentation import Segmentation, annotation_numbers

Confidence = Literal["regions", "pixels"]


@dataclass(frozen=True)
class Rules:
    """What of a model's answer becomes a label.

    min_area: regions of fewer pixels are taken out: background where there is one, else void. min_confidence: pixels
    whose probability is lower become void. confidence: "regions": a score in every annotation, of words from the
    soft-max at the network's own resolution; "pixels": that of every pixel at full resolution, which costs more, as a
    map.

    Raises UserError for values that cannot be meant.
    """

    min_area: int = 0
    min_confidence: float | None = None
    confidence: Confidence | None = None

    def __post_init__(self) -> None:
        if self.min_area < 0:
            raise UserError(f"min-area {self.min_area} is no number of pixels; give 0 or more")
        if self.min_confidence is not None and not 0 < self.min_confidence < 1:
            raise UserError(
                f"min-confidence {self.min_confidence:g} is no probability; give one between 0 and 1"
            )
        if self.confidence not in (None, *get_args(Confidence)):
            raise UserError(f"confidence {self.confidence!r} is unknown; choose regions or pixels")

    @property
    def exact(self) -> bool:
        """Whether probabilities are needed at every pixel."""
        return self.confidence == "pixels" or self.min_confidence is not None


@dataclass(frozen=True)
class Labels:
    """What mask values mean. A class that is called "background" is left out of annotations.

    masks: whether regions have shapes; if not, they are boxes.
    """

    classes: tuple[str, ...]
    masks: bool = True

    @cached_property
    def background(self) -> int | None:
        """The mask value of the background; None without one."""
        return int(self.numbers.argmin()) if not self.numbers.all() else None

    @property
    def void(self) -> int:
        """The value of pixels without a label: 255, or 65535 from 256 classes on."""
        return ignore_index(len(self.classes))

    @property
    def things(self) -> tuple[str, ...]:
        """The classes without the background."""
        return tuple(name for value, name in enumerate(self.classes) if value != self.background)

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """By mask value, what annotation files call a class: 0 the background, things from 1 on."""
        return annotation_numbers(self.classes)


@dataclass(frozen=True)
class Labeled:
    """A picture of H x W pixels with its labels.

    position: its number in the job. image: (H, W, 3) uint8 RGB. mask: (H, W) uint8 or int32: class, or void.
    confidence: (H, W) float32 in 0..1. regions: without void and background. result: what the model said.
    given_scores: (R,), the confidence of each region if it is not the mean of its pixels'.
    """

    item: Item
    position: int
    labels: Labels
    image: NDArray[np.uint8]
    mask: NDArray[np.integer]
    confidence: NDArray[np.float32]
    regions: Regions
    result: Segmentation
    given_scores: NDArray[np.float32] | None = None

    @cached_property
    def scores(self) -> list[float]:
        """The confidence of each region."""
        scores = self.regions.means(self.confidence) if self.given_scores is None else self.given_scores
        return [round(float(value), 4) for value in scores]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.mask.shape[0], self.mask.shape[1]


class Labeler(Protocol):
    """A model that labels pictures: of words, or of things."""

    @property
    def name(self) -> str:
        """What annotations are signed with."""

    @property
    def labels(self) -> Labels:
        """What it may find."""

    @property
    def machine(self) -> str:
        """Precision, why it was chosen, and the processor, for the summary."""

    def identity(self) -> dict[str, Any]:
        """All of it that labels depend on, as JSON holds it."""

    @property
    def batch(self) -> int:
        """How many pictures are encoded together."""

    def encode(self, images: list[NDArray[np.uint8]], rules: Rules) -> list[Any]:
        """What the network makes of pictures (H, W, 3) uint8 RGB, all of one shape."""

    def label(self, encoded: Any, item: Item, position: int, rules: Rules) -> Labeled:  # noqa: ANN401
        """Turn that into labels, and apply the rules. Called in any thread."""
