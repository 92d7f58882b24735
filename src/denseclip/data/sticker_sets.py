"""Miniatures of the papers' data sets, made of sticker scenes that are rendered when asked for.

A scene depends on (set, split, index) only, nothing is stored. The names of the splits, such as "stickers20/val",
never occur in the training of the tiny CLIPs, so its scenes do not either.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from denseclip.data.datasets import DatasetSpec, Sample, SegmentationDataset, Split, colors
from denseclip.data.stickers import TEXTURES, Scene, SceneRecipe, render, sprite_names
from denseclip.data.transforms import ResizeRule
from denseclip.errors import UserError

SIDE = 320  # pixels
SIZES = {"train": 20_000, "val": 500}

# PASCAL VOC's things in its order, its last five unseen as there; a bed stands in for the dining table.
VOC = (
    "airplane", "bicycle", "bird", "sailboat", "bottle", "bus", "car", "cat", "chair", "cow", "bed", "dog", "horse",
    "motorcycle", "person", "potted plant", "sheep", "sofa", "train", "television",
)  # fmt: skip
# What PASCAL Context and COCO add to them.
MORE = (
    "backpack", "books", "house", "t-shirt", "laptop", "cup", "door", "sunflower", "hamburger", "traffic light",
    "stop sign", "pine tree", "truck", "umbrella", "elephant", "giraffe", "zebra", "bear", "banana", "apple", "pizza",
    "cake", "teddy bear",
)  # fmt: skip
# Those of PASCAL Context, with a laptop for the keyboard and a brick wall for the fence.
UNSEEN_59 = (
    "cow", "motorcycle", "sofa", "cat", "sailboat", "brick wall", "bird", "television", "laptop", "airplane",
)  # fmt: skip
# Those of COCO-Stuff as far as there is something like them.
UNSEEN_135 = (
    "cow", "giraffe", "handbag", "soccer ball", "skateboard", "carrot", "scissors", "grass", "water", "road",
    "pine tree", "stone wall",
)  # fmt: skip


def sticker_specs() -> tuple[DatasetSpec, ...]:
    """stickers20 (things, the rest not counted), stickers21 (the rest is background), stickers59 and stickers135
    (things and all 16 textures; all common sprites in the last).
    """
    few = SceneRecipe(things=VOC, count=(1, 4), scale=(0.2, 0.7))
    many = SceneRecipe(things=VOC + MORE)
    common = sprite_names(common=True)
    return (
        _spec("stickers20", VOC, VOC[15:], few),
        _spec("stickers21", ("background", *VOC), VOC[15:], few),
        _spec("stickers59", VOC + MORE + TEXTURES, UNSEEN_59, many),
        _spec("stickers135", common + TEXTURES, UNSEEN_135, SceneRecipe(things=common)),
    )


def _spec(name: str, classes: tuple[str, ...], unseen: tuple[str, ...], scenes: SceneRecipe) -> DatasetSpec:
    background = 0 if classes[0] == "background" else None
    palette = colors(len(classes) + 1)
    return DatasetSpec(
        name,
        classes=classes,
        prompts=tuple((word,) for word in classes),
        palette=palette[1:] if background is None else palette[:-1],
        label_ids=tuple(range(len(classes))),
        background=background,
        unseen=tuple(sorted(classes.index(word) for word in unseen)),
        resize=ResizeRule("none"),
        splits={split: (Split(size=size),) for split, size in SIZES.items()},
        source="nothing, its scenes are rendered",
        scenes=scenes,
    )


@dataclass(frozen=True)
class StickerEntry:
    """Scene `index` of a split such as "stickers20/val", rendered with `side` x `side` pixels."""

    split: str
    index: int
    recipe: SceneRecipe
    side: int = SIDE

    @property
    def image_id(self) -> str:
        """Such as "stickers20/val/00042", or with "@128" behind it for a side of 128 pixels."""
        return f"{self.split}/{self.index:05d}" + ("" if self.side == SIDE else f"@{self.side}")

    @property
    def files(self) -> tuple[Path, ...]:
        """None."""
        return ()

    def scene(self) -> Scene:
        """The picture with its instances and boxes."""
        return render(self.split, self.index, self.recipe, self.side)

    def read(self, spec: DatasetSpec) -> Sample:
        """What is no class of `spec` is background, or not counted if there is none; colors do not matter."""
        scene = self.scene()
        rest = spec.ignore_index if spec.background is None else spec.background
        classes = [spec.classes.index(name) if name in spec.classes else rest for name in scene.names]
        return Sample(self.image_id, scene.image, np.array(classes, np.uint8)[scene.labels])


class StickerDataset(SegmentationDataset):
    """A split of sticker scenes, which know more than a mask."""

    entries: tuple[StickerEntry, ...]

    def scene(self, index: int) -> Scene:
        """Everything known of image `index`: instances and boxes of its things, its textures."""
        return self.entries[index].scene()


def open_stickers(spec: DatasetSpec, split: str | None = None, *, side: int = SIDE) -> StickerDataset:
    """A split of a sticker set, the one to evaluate if None; UserError if there is no such split."""
    assert spec.scenes is not None
    name = split or spec.default_split
    if name not in spec.splits:
        raise UserError(f"{spec.name} has no split {name!r}: choose from {', '.join(spec.splits)}")
    size = sum(part.size or 0 for part in spec.splits[name])
    entries = [StickerEntry(f"{spec.name}/{name}", index, spec.scenes, side) for index in range(size)]
    return StickerDataset(spec, name, entries)
