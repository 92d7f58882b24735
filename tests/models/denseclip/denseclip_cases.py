"""Fixture cases of the official DenseCLIP: weights, inputs, models, comparison."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from denseclip.models.denseclip import DenseClipSegmenter
from denseclip.models.encoders import Heads
from denseclip.models.official import load_official
from fixtures_support import denseclip_weights

GRADIENT = 2e-4


def state_of(manifest: list, seed: int, prefix: str = "") -> dict[str, Tensor]:
    """Generated weights under the names of a manifest."""
    return {
        name.removeprefix(prefix): torch.from_numpy(
            np.asarray(denseclip_weights.value(name, tuple(shape), seed))
        )
        for name, shape in manifest
        if name.startswith(prefix)
    }


def deviation(ours: Tensor, theirs: Tensor) -> float:
    """max |ours - theirs| / max |theirs|; shapes must agree."""
    assert ours.shape == theirs.shape, (tuple(ours.shape), tuple(theirs.shape))
    difference = (ours.detach().double() - theirs.double()).abs().max()
    return float(difference / theirs.double().abs().max().clamp_min(1e-30))


class Case:
    """One segmentation or detection case."""

    def __init__(self, path: Path) -> None:
        self.meta: dict[str, Any] = json.loads(path.read_text())
        self.arrays = dict(np.load(path.with_suffix(".npz")))
        self.config = self.meta["config"]
        self.seed: int = self.meta["seed"]
        self.real = self.config["vocab"] > 10_000
        self.tolerance = 1e-4 if self.real else 3e-5

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def input(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(denseclip_weights.image(shape, self.seed, f"input:{name}"))

    def tokenize(self, names) -> Tensor:
        assert tuple(names) == tuple(self.meta["class_names"])
        return self["texts"]

    @cached_property
    def state(self) -> dict[str, Tensor]:
        return state_of(self.meta["manifest"], self.seed)

    @cached_property
    def images(self) -> Tensor:
        return self.input("image", tuple(self.meta["image_shape"]))

    @property
    def heads(self) -> Heads:
        return Heads(
            vit=self.config["backbone"].get("heads"),
            text=self.config["text_heads"],
            decoder=self.config["cd_heads"],
        )

    @cached_property
    def model(self) -> DenseClipSegmenter:
        return load_official(self.state, self.meta["class_names"], tokenize=self.tokenize, heads=self.heads)

    def close(self, name: str, ours: Tensor, tolerance: float | None = None) -> None:
        error = deviation(ours, self[name])
        assert error <= (tolerance or self.tolerance), f"{name}: {error:.2e}"
