"""What the two embedded models are and how they are trained."""

from dataclasses import dataclass, replace
from typing import Any

from denseclip.clip.clip import SHORT_VOCABULARY
from denseclip.data.stickers import SceneRecipe, sprite_names

TEXT = {"context_length": 48, "vocab_size": SHORT_VOCABULARY, "width": 128, "heads": 2, "layers": 2}


@dataclass(frozen=True)
class Stage:
    """A stretch of training: `steps` batches of pictures of `side` pixels.

    seen_from: the pictures are windows into scenes whose own side is between these two; without it they are the
    scenes. stuff: the short captions name the textures too. cycle: here the learning rate warms up to this share of
    the recipe's, and falls from there by a cosine until the next cycle or the end.
    """

    steps: int
    side: int
    scenes: SceneRecipe
    seen_from: tuple[int, int] | None = None
    stuff: bool = True
    batch: int = 256
    cycle: float = 0.0


@dataclass(frozen=True)
class TinyRecipe:
    """Everything that a tiny CLIP's weights depend on, besides its teacher.

    vision: the `vision_cfg` of open_clip's model config. text_steps: steps in which the text tower alone learns that
    a word stays the same in all templates and differs from all others. text_rate: its learning rate after that, as a
    share of `lr`. warmup: the share of a cycle in which the rate rises. taught: the text tower is a teacher's and
    stays as it is, and places learn from the teacher's. average: every so many steps the weights join a running
    average that keeps this share of itself; it is the result.
    """

    name: str
    vision: dict[str, Any]
    stages: tuple[Stage, ...]
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    text_steps: int = 200
    text_rate: float = 0.2
    taught: bool = False
    average: tuple[int, float] = (10, 0.995)
    seed: int = 0
    split: str = "tiny-clip/train"

    @property
    def config(self) -> dict[str, Any]:
        """open_clip's model config."""
        return {"embed_dim": 256, "vision_cfg": self.vision, "text_cfg": TEXT, "quick_gelu": False}

    @property
    def steps(self) -> int:
        """Optimizer steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[Stage, int]:
        """The stage that optimizer step `step` (from 0) belongs to, and the number of the step's first picture."""
        pictures = 0
        for stage in self.stages:
            if step < stage.steps:
                return stage, pictures + step * stage.batch
            step, pictures = step - stage.steps, pictures + stage.steps * stage.batch
        raise IndexError(f"step {step} lies beyond the last")

    def cycle_at(self, step: int) -> tuple[int, int, float]:
        """First step, length and peak of the learning rate's cycle that `step` belongs to."""
        first, peak, done = 0, self.lr, 0
        for stage in self.stages:
            if stage.cycle and done > step:
                break
            if stage.cycle:
                first, peak = done, self.lr * stage.cycle
            done += stage.steps
        return first, done - first, peak


# From one thing that fills the picture, which is soon learned, to several small ones.
ALONE = SceneRecipe(count=(1, 1), scale=(0.55, 1.0), common=0.9, colors=0.25)
NEAR = SceneRecipe(count=(1, 4), scale=(0.3, 0.95), common=0.9, colors=0.25)
# Scenes as they are at test time, of which a window shows little more than one thing: a caption of few words.
WIDE = SceneRecipe(count=(3, 6), scale=(0.16, 0.6), common=0.9, colors=0.25)

# Common words that tiny-rn mostly missed in a sample of training windows after 7,550 steps, by their captions.
LATE = tuple(
    """airplane,bear,bell,bicycle,bird,bottle,bus,camera,carrot,cat,chair,elephant,giraffe,glasses,guitar,hammer,
    handbag,helicopter,horse,key,penguin,rabbit,rose,sheep,skateboard,sofa,spoon,toilet,trumpet,umbrella,balloon,
    fish""".replace("\n    ", "").split(",")
)
# A word that is in the pool three times is shown three times as often.
WIDE_LATE = replace(WIDE, things=(*sprite_names(common=True), *LATE, *LATE))

RECIPES = {
    "tiny-rn": TinyRecipe(
        name="tiny-rn",
        vision={"layers": [1, 2, 2, 1], "width": 32, "image_size": 96},
        stages=(
            Stage(600, 64, ALONE, stuff=False, batch=64),
            Stage(450, 96, NEAR, batch=64),
            Stage(1800, 96, WIDE, (200, 340), batch=64, cycle=1.0),
            Stage(300, 128, WIDE, (240, 340), batch=64),
            Stage(4000, 96, WIDE, (200, 340), batch=64, cycle=0.7),
            Stage(400, 128, WIDE, (240, 340), batch=64),
            Stage(1500, 96, WIDE_LATE, (200, 340), batch=64, cycle=0.7),
            Stage(850, 96, WIDE, (200, 340), batch=64),
            Stage(300, 128, WIDE, (240, 340), batch=64),
            # on a GPU from here: 1.5 million pictures
            Stage(1320, 96, WIDE, (200, 340), cycle=1.0),
            Stage(1761, 96, WIDE_LATE, (200, 340)),
            Stage(1238, 128, WIDE, (240, 340)),
            Stage(990, 128, WIDE_LATE, (240, 340)),
            Stage(634, 160, WIDE, (260, 340)),
        ),
    ),
    "tiny-vit": TinyRecipe(
        name="tiny-vit",
        vision={"layers": 8, "width": 256, "head_width": 64, "patch_size": 8, "image_size": 128},
        stages=(
            Stage(1450, 128, WIDE, (200, 340), batch=512),
            Stage(730, 128, WIDE_LATE, (240, 340), batch=512),
            Stage(455, 160, WIDE, (260, 340), batch=512),
            Stage(125, 192, WIDE_LATE, (280, 340), batch=512),
            Stage(125, 192, WIDE, (280, 340), batch=512),
        ),
        lr=1.2e-3,
        warmup=0.14,
        taught=True,
        average=(4, 0.99),
        seed=7,
        split="tiny-clip/train-pair",
    ),
}
