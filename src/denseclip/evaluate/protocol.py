"""Everything that a figure depends on, printed and stored with it."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any, Self

from denseclip.data.datasets import SegmentationDataset
from denseclip.segment.segmenter import Segmenter

Corruption = tuple[str, int]  # kind and level


@dataclass(frozen=True)
class Protocol:
    """What was run on what; two figures can be compared where only what is compared differs.

    model: name. details: `Clip.describe()`, precision and device last. weights: start of `Clip.fingerprint`.
    data, split, images: what was asked for. contents: start of a hash over the image ids, the classes, their
    words and how scenes are rendered. settings: `Settings.describe()`. corruption: kind and level, or None.
    versions: of the packages. machine: precision, why it was chosen, and the processor; it takes no part
    in `differences`, where `details` tells one precision from another.
    """

    model: str
    details: str
    weights: str
    data: str
    split: str
    images: int
    contents: str
    settings: Mapping[str, Any]
    corruption: Corruption | None
    versions: Mapping[str, str]
    machine: str = field(default="", compare=False)

    @classmethod
    def of(
        cls,
        segmenter: Segmenter,
        dataset: SegmentationDataset,
        images: int,
        corruption: Corruption | None = None,
    ) -> Self:
        """The protocol of the first `images` images of a data set under a segmenter."""
        clip, spec = segmenter.clip, dataset.spec
        ids = [entry.image_id for entry in dataset.entries[:images]]
        contents = repr((ids, spec.classes, spec.prompts, spec.background, spec.scenes))
        return cls(
            model=clip.name,
            details=clip.describe().removeprefix(f"{clip.name}: "),
            weights=clip.fingerprint[:12],
            data=spec.name,
            split=dataset.split,
            images=images,
            contents=hashlib.sha256(contents.encode()).hexdigest()[:12],
            settings=segmenter.settings.describe(),
            corruption=corruption,
            versions={
                "denseclip": version("denseclip"),
                "torch": version("torch"),
                "open_clip": version("open_clip_torch"),
            },
            machine=segmenter.machine,
        )

    def describe(self) -> dict[str, Any]:
        """A flat form to print or to store as JSON."""
        corruption = f"{self.corruption[0]}, level {self.corruption[1]}" if self.corruption else "none"
        return {
            "model": self.model,
            "details": self.details,
            "weights": self.weights,
            "data": self.data,
            "split": self.split,
            "images": self.images,
            "contents": self.contents,
            **self.settings,
            "corruption": corruption,
            "precision": self.machine,
            **self.versions,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` reads back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_dict()`, also after JSON."""
        corruption = values["corruption"]
        return cls(**{**values, "corruption": (corruption[0], corruption[1]) if corruption else None})

    def differences(self, other: "Protocol") -> list[str]:
        """Keys of `describe()` in which two protocols differ."""
        mine, theirs = self.describe(), other.describe()
        return [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key) and key != "precision"]
