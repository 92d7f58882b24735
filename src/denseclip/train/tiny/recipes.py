"""What the two embedded models are and how they are trained."""

from dataclasses import dataclass, field
from typing import Any

from denseclip.clip.tokens import SHORT_VOCABULARY
from denseclip.data.stickers import SceneRecipe

TEXT = {"context_length": 48, "vocab_size": SHORT_VOCABULARY, "width": 192, "heads": 3, "layers": 3}


@dataclass(frozen=True)
class Stage:
    """A stretch of training: `pictures` scenes of `side` pixels."""

    pictures: int
    side: int
    scenes: SceneRecipe


@dataclass(frozen=True)
class TinyRecipe:
    """Everything that a tiny CLIP's weights depend on. `config` is open_clip's model config."""

    name: str
    config: dict[str, Any]
    stages: tuple[Stage, ...]
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 150
    patch_dropout: float = 0.0
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


# From one thing that fills the picture, which is soon learned, to several small ones.
ALONE = SceneRecipe(count=(1, 1), scale=(0.55, 1.0))
NEAR = SceneRecipe(count=(1, 4), scale=(0.3, 0.95))
MIDDLE = SceneRecipe(count=(2, 6), scale=(0.2, 0.8))

RECIPES = {
    "tiny-rn": TinyRecipe(
        name="tiny-rn",
        config={
            "embed_dim": 256,
            "vision_cfg": {"layers": [1, 2, 2, 1], "width": 32, "image_size": 160},
            "text_cfg": TEXT,
            "quick_gelu": False,
        },
        stages=(Stage(72_000, 64, ALONE), Stage(40_000, 96, NEAR), Stage(8_000, 160, MIDDLE)),
        lr=1.5e-3,
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
        stages=(Stage(96_000, 96, ALONE), Stage(64_000, 96, NEAR)),
        patch_dropout=0.5,
    ),
}
