"""Pictures and captions of sticker scenes, batch by batch: a batch depends on its number only."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from denseclip.clip.clip import tokenizer_for
from denseclip.data.stickers import TEXTURES, Scene, describe, render, short_captions, sprite_names, window
from denseclip.text import TEMPLATES_85
from tools.train_tiny.recipes import TEXT, TinyRecipe

WORDS: tuple[str, ...] = (*sprite_names(), *TEXTURES)
WINDOWS = 8  # into one scene
WHOLE = 8  # every so many pictures have a sentence for all that they show, three times as long as a phrase
_ROW = {word: i for i, word in enumerate(WORDS)}


class Batch(NamedTuple):
    """Pictures and what their captions say.

    images: (B, 3, S, S) uint8. phrases: (U, L) tokens of the short captions of all pictures. matches: (B, U) bool,
    which of them belong to a picture. known: (B, W) bool, which of the first W of `WORDS` a picture's captions hold;
    W is `len(WORDS)` where captions name everything that there is to see. whole: tokens of one sentence for each
    `WHOLE`th picture.
    """

    images: Tensor
    phrases: Tensor
    matches: Tensor
    known: Tensor
    whole: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch there."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


def pictures(recipe: TinyRecipe, step: int) -> Iterator[Scene]:
    """The scenes of one optimizer step, or `WINDOWS` windows into each of fewer scenes, mostly onto a thing."""
    stage, first = recipe.stage_at(step)
    numbers = range(first, first + stage.batch)
    if stage.seen_from is None:
        yield from (render(recipe.split, i, stage.scenes, stage.side) for i in numbers)
        return
    for i in numbers[::WINDOWS]:
        rng = np.random.default_rng([recipe.seed, i])
        scene = render(recipe.split, i, stage.scenes, int(rng.integers(*stage.seen_from)))
        room = len(scene.image) - stage.side
        for _ in range(min(WINDOWS, numbers.stop - i)):
            spot = rng.integers(0, room + 1, 2)  # left, top
            if rng.random() < 0.7:
                x0, y0, x1, y1 = scene.things[int(rng.integers(len(scene.things)))].box
                middle = np.array([x0 + x1, y0 + y1]) / 2 + rng.normal(0, stage.side / 6, 2)
                spot = np.clip(middle - stage.side / 2, 0, room).astype(int)
            yield window(scene, int(spot[1]), int(spot[0]), stage.side)


class Batches(Dataset[Batch]):
    """Item `i` is the batch of optimizer step `first + i`."""

    def __init__(self, recipe: TinyRecipe, first: int = 0) -> None:
        self.recipe, self.first = recipe, first
        self._tokens = tokenizer_for(TEXT, recipe.name)

    def __len__(self) -> int:
        return self.recipe.steps - self.first

    def __getitem__(self, item: int) -> Batch:
        step = self.first + item
        stuff = self.recipe.stage_at(step)[0].stuff
        rng = np.random.default_rng([self.recipe.seed, step])
        scenes = list(pictures(self.recipe, step))
        captions = [short_captions(scene, stuff=stuff) for scene in scenes]
        words = sorted({caption for each in captions for caption in each})
        column = {word: u for u, word in enumerate(words)}
        matches = torch.zeros(len(scenes), len(words), dtype=torch.bool)
        known = torch.zeros(len(scenes), len(WORDS if stuff else sprite_names()), dtype=torch.bool)
        for i, each in enumerate(captions):
            matches[i, [column[word] for word in each]] = True
            known[i, [_ROW[word] for word in each if word in _ROW]] = True
        return Batch(
            images=torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2),
            phrases=self._tokens([phrase(word, rng) for word in words]),
            matches=matches,
            known=known,
            whole=self._tokens([describe(scene, rng) for scene in scenes[::WHOLE]]),
        )


def phrase(word: str, rng: np.random.Generator) -> str:
    """The bare word, or the word in one of CLIP's templates."""
    return word if rng.random() < 0.4 else TEMPLATES_85[int(rng.integers(len(TEMPLATES_85)))].format(word)
