"""Captions of sticker scenes: one sentence for the whole picture, and short ones for each part."""

import numpy as np

from denseclip.data.stickers.scenes import Scene, Thing

WHOLE = (
    "a photo of {}.",
    "a picture of {}.",
    "{}",
    "an image with {}.",
    "there is {} in the scene.",
    "this is {}.",
    "a rendering of {}.",
    "a good photo of {}.",
)
MIN_VISIBLE = 0.4  # a thing that is mostly hidden is not mentioned,
MIN_SHARE = 0.15  # unless what is left of it takes this much of the picture


def seen(scene: Scene) -> list[Thing]:
    """The things that a caption mentions, nearest (last drawn) first."""
    pixels = np.bincount(scene.instances.ravel(), minlength=len(scene.things) + 1) / scene.instances.size
    numbered = reversed(list(enumerate(scene.things, start=1)))
    return [t for i, t in numbered if t.visible >= MIN_VISIBLE or pixels[i] >= MIN_SHARE]


def mentioned(scene: Scene) -> list[str]:
    """Phrases of the things that can be seen, each once, nearest first."""
    return list(dict.fromkeys(t.phrase for t in seen(scene)))


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """A sentence such as "a photo of a cat and a red car on grass."."""
    things = mentioned(scene)
    rng.shuffle(things)
    articles = ("a", "the")
    nouns = [f"{articles[int(rng.random() < 0.2)]} {thing}" for thing in things]
    text = " and ".join([", ".join(nouns[:-1]), nouns[-1]] if len(nouns) > 1 else nouns)
    if scene.stuff:
        text = f"{text} on {' and '.join(scene.stuff)}" if text else " and ".join(scene.stuff)
    return WHOLE[int(rng.integers(len(WHOLE)))].format(text or "nothing")


def short_captions(scene: Scene, *, stuff: bool = True) -> list[str]:
    """The words of each visible part, coloured things with and without colour: "red car", "car", "grass"."""
    plain = [t.name for t in seen(scene)]
    return list(dict.fromkeys([*mentioned(scene), *plain, *(scene.stuff if stuff else ())]))
