"""What the two embedded models are and how they are trained."""

from dataclasses import dataclass, field, replace
from typing import Any

from denseclip.clip.tokenizer import SHORT_VOCABULARY
from denseclip.data.stickers import SceneRecipe, sprite_names

TEXT = {"context_length": 48, "vocab_size": SHORT_VOCABULARY, "width": 128, "heads": 2, "layers": 2}


@dataclass(frozen=True)
class Stage:
    """A stretch of training: `pictures` of `side` pixels, whose short captions may leave out the stuff.

    seen_from: the pictures are windows into scenes whose own side is between these two;
    without it they are the scenes. restart: here the learning rate warms up again, to this share of `lr`.
    """

    pictures: int
    side: int
    scenes: SceneRecipe
    stuff: bool = True
    seen_from: tuple[int, int] | None = None
    restart: float = 0.0


@dataclass(frozen=True)
class TinyRecipe:
    """Everything that a tiny CLIP's weights depend on.

    config: open_clip's model config. text_steps: steps in which the text tower alone learns that a word stays the
    same in all templates and differs from all others; words_from: a tiny CLIP whose text tower is taken instead.
    text_rate: the text tower's learning rate after that, as a share of `lr`.
    """

    name: str
    config: dict[str, Any]
    stages: tuple[Stage, ...]
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 50
    patch_dropout: float = 0.0
    text_steps: int = 200
    words_from: str | None = None
    text_rate: float = 0.2
    first_scale: float = 20.0
    seed: int = 0
    split: str = "tiny-clip/train"
    notes: tuple[str, ...] = field(default=())

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.pictures // self.batch for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """The stage that optimiser step `step` (from 0) belongs to."""
        for stage in self.stages:
            step -= stage.pictures // self.batch
            if step < 0:
                return stage
        return self.stages[-1]

    def cycle_at(self, step: int) -> tuple[int, int, float]:
        """First optimiser step, length and peak of the learning rate's cycle that `step` belongs to."""
        starts, done = {0: self.lr}, 0
        for stage in self.stages:
            if stage.restart and done:
                starts[done] = self.lr * stage.restart
            done += stage.pictures // self.batch
        first = max(start for start in starts if start <= step)
        return first, min([*(start for start in starts if start > first), done]) - first, starts[first]


# From one thing that fills the picture, which is soon learned, to several small ones.
ALONE = SceneRecipe(count=(1, 1), scale=(0.55, 1.0), common=0.9, colours=0.25)
NEAR = SceneRecipe(count=(1, 4), scale=(0.3, 0.95), common=0.9, colours=0.25)
# Scenes as they are at test time, of which a window shows little more than one thing: a caption of few words.
WIDE = SceneRecipe(count=(3, 6), scale=(0.16, 0.6), common=0.9, colours=0.25)

# Common words that tiny-rn mostly missed in a sample of training windows after 7,550 steps, by their captions.
LATE = [
    "airplane",
    "bear",
    "bell",
    "bicycle",
    "bird",
    "bottle",
    "bus",
    "camera",
    "carrot",
    "cat",
    "chair",
    "elephant",
    "giraffe",
    "glasses",
    "guitar",
    "hammer",
    "handbag",
    "helicopter",
    "horse",
    "key",
    "penguin",
    "rabbit",
    "rose",
    "sheep",
    "skateboard",
    "sofa",
    "spoon",
    "toilet",
    "trumpet",
    "umbrella",
    "balloon",
    "fish",
]
# A word that is in the pool three times is shown three times as often.
WIDE_LATE = replace(WIDE, things=(*sprite_names(common=True), *LATE, *LATE))

RECIPES = {
    "tiny-rn": TinyRecipe(
        name="tiny-rn",
        config={
            "embed_dim": 256,
            "vision_cfg": {"layers": [1, 2, 2, 1], "width": 32, "image_size": 96},
            "text_cfg": TEXT,
            "quick_gelu": False,
        },
        stages=(
            Stage(38_400, 64, ALONE, stuff=False),
            Stage(28_800, 96, NEAR),
            Stage(115_200, 96, WIDE, seen_from=(200, 340), restart=1.0),
            Stage(19_200, 128, WIDE, seen_from=(240, 340)),
            Stage(256_000, 96, WIDE, seen_from=(200, 340), restart=0.7),
            Stage(25_600, 128, WIDE, seen_from=(240, 340)),
            Stage(96_000, 96, WIDE_LATE, seen_from=(200, 340), restart=0.7),
            Stage(54_400, 96, WIDE, seen_from=(200, 340)),
            Stage(19_200, 128, WIDE, seen_from=(240, 340)),
        ),
    ),
    "tiny-vit": TinyRecipe(
        name="tiny-vit",
        config={
            "embed_dim": 256,
            "vision_cfg": {
                "layers": 6,
                "width": 192,
                "head_width": 48,
                "patch_size": 8,
                "image_size": 96,
                "pool_type": "avg",
            },
            "text_cfg": TEXT,
            "quick_gelu": False,
        },
        stages=(
            Stage(25_600, 96, WIDE, seen_from=(200, 340)),
            Stage(25_600, 96, ALONE, stuff=False),
            Stage(19_200, 96, NEAR),
            Stage(25_600, 96, WIDE, seen_from=(200, 340)),
        ),
        patch_dropout=0.5,
        words_from="tiny-rn",
        text_rate=0.0,
    ),
}
