"""A training small enough for a test: 32-pixel crops, a few steps, the embedded CLIP as teacher."""

import torch

from denseclip.train.recipe import TrainRecipe, laid_over, make_recipe

SMALL = {
    "precision": "fp32",
    "steps": 4,
    "batch": 4,
    "workers": 0,
    "save_every": 2,
    "panel_every": 0,
    "probe_every": 0,
    "data": {"train": "stickers20", "images": 6, "side": 64},
    "augment": {"crop": [32, 32], "ratio": [0.75, 1.5]},
    "student": {"backbone": "resnet18", "output_stride": 16, "pretrained": False},
    "teacher": {"model": "tiny-rn", "official": False},
    "labels": {"hide": "all"},
}


def small(**changes: object) -> TrainRecipe:
    """The recipe, with other values laid over it."""
    return make_recipe(laid_over(SMALL, changes))


def weights(path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
