"""Pictures and captions of sticker scenes, batch by batch: a batch depends on its number only."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from denseclip.data.stickers import (
    TEXTURES,
    Scene,
    describe,
    render,
    short_captions,
    sprite_names,
    window,
)
from denseclip.text import TEMPLATES_85
from denseclip.train.tiny.recipes import Stage, TinyRecipe
from denseclip.train.workers import in_order


@dataclass(frozen=True)
class Pairs:
    """`images` (B, 3, S, S) uint8; `whole`: B sentences; `phrases`: U sentences; `matches` (B, U) bool.

    `known` (B, W) bool: which of the first W of `WORDS` a picture's captions hold; `all_named`: captions name
    everything there is to see.
    """

    images: Tensor
    whole: list[str]
    phrases: list[str]
    matches: Tensor
    known: Tensor
    all_named: bool


WORDS: tuple[str, ...] = (*sprite_names(), *TEXTURES)
WINDOWS = 8
_PLACE = {word: i for i, word in enumerate(WORDS)}


def pictures(recipe: TinyRecipe, stage: Stage, step: int) -> Iterator[Scene]:
    """The scenes of one optimiser step, or `WINDOWS` windows into each of fewer scenes, mostly onto a thing."""
    indices = range(step * recipe.batch, (step + 1) * recipe.batch)
    if stage.seen_from is None:
        yield from (render(recipe.split, i, stage.scenes, stage.side) for i in indices)
        return
    for i in indices[::WINDOWS]:
        rng = np.random.default_rng([recipe.seed, i])
        scene = render(recipe.split, i, stage.scenes, int(rng.integers(*stage.seen_from)))
        room = len(scene.image) - stage.side
        for _ in range(WINDOWS):
            spot = rng.integers(0, room + 1, 2)  # left, top
            if rng.random() < 0.7:
                x0, y0, x1, y1 = scene.things[int(rng.integers(len(scene.things)))].box
                middle = np.array([x0 + x1, y0 + y1]) / 2 + rng.normal(0, stage.side / 6, 2)
                spot = np.clip(middle - stage.side / 2, 0, room).astype(int)
            yield window(scene, int(spot[1]), int(spot[0]), stage.side)


class PairBatches(Dataset[Pairs]):
    """Item `step` is the batch of that optimiser step."""

    def __init__(self, recipe: TinyRecipe, first: int = 0) -> None:
        self.recipe, self.first = recipe, first

    def __len__(self) -> int:
        return self.recipe.steps - self.first

    def __getitem__(self, item: int) -> Pairs:
        if item >= len(self):
            raise IndexError(item)
        step = self.first + item
        recipe, stage = self.recipe, self.recipe.stage_at(step)
        rng = np.random.default_rng([recipe.seed, step])
        scenes = list(pictures(recipe, stage, step))
        captions = [short_captions(scene, stuff=stage.stuff) for scene in scenes]
        vocabulary = len(WORDS) if stage.stuff else len(sprite_names())
        words = sorted({caption for each in captions for caption in each})
        place = {word: u for u, word in enumerate(words)}
        matches = torch.zeros(len(scenes), len(words), dtype=torch.bool)
        known = torch.zeros(len(scenes), vocabulary, dtype=torch.bool)
        for i, each in enumerate(captions):
            matches[i, [place[word] for word in each]] = True
            known[i, [_PLACE[word] for word in each if word in _PLACE]] = True
        shuffle = random.Random(int(rng.integers(2**31)))
        return Pairs(
            images=torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2),
            whole=[describe(scene, rng) for scene in scenes],
            phrases=[
                word if shuffle.random() < 0.4 else shuffle.choice(TEMPLATES_85).format(word)
                for word in words
            ],
            matches=matches,
            known=known,
            all_named=stage.stuff,
        )


def batches(recipe: TinyRecipe, first: int, workers: int) -> Iterator[Pairs]:
    """The batches from optimiser step `first` on, made in `workers` processes ahead of time."""
    return in_order(PairBatches(recipe, first), workers)
