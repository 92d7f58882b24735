"""The model that a page holds, and what can be chosen for it."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import torch

from denseclip.clip.hub import EMBEDDED
from denseclip.clip.towers import ResNetTower
from denseclip.dense.load import load
from denseclip.dense.segmenter import Segmenter
from denseclip.errors import UserError
from denseclip.web.limits import Limits
from denseclip.web.memory import MemoryCache
from denseclip.web.snippets import Origin

PRESETS = {  # name: (what it is, whether it says something new for a ResNet)
    "maskclip-dilated": ("MaskCLIP on a map twice as fine", True),
    "maskclip": ("values of the last attention, no mixing", True),
    "maskclip-reduced": ("the same without residual and MLP", False),
    "clearclip": ("queries look at queries", True),
    "naclip": ("keys look at keys, near ones more", True),
    "sclip": ("queries at queries, keys at keys", True),
    "vanilla": ("CLIP as it is, for comparison", True),
}

EMBEDDED_NOTE = (
    "This small model knows the stickers of the examples and nothing of photographs. For those, start the page with "
    "a CLIP that does, such as denseclip serve --model ViT-B-16."
)


@dataclass(frozen=True)
class Holder:
    """A Segmenter that every visitor's copy shares its weights with, and how it was loaded."""

    base: Segmenter
    origin: Origin
    limits: Limits
    preset: str

    @classmethod
    def open(cls, origin: Origin, limits: Limits, preset: str | None = None) -> "Holder":
        """Load a model. preset: the page's first choice; None for the best one for the model's tower.

        Raises UserError for what cannot be loaded.
        """
        loaded = load(origin.model, device=origin.device, precision=origin.precision, cache=False)
        base = Segmenter(loaded.clip, None, loaded.settings, cache=MemoryCache(limits.rows))
        known = presets(base)
        first = preset or next(iter(known))
        if first not in known:
            raise UserError(f"preset {first!r} is not for {origin.model}; choose one of {', '.join(known)}")
        return cls(base, origin, limits, first)

    def about(self) -> dict[str, Any]:
        """Which model this is, for the page."""
        clip = self.base.clip
        towers: list[torch.nn.Module] = [clip.image, clip.text]
        return {
            "name": PurePath(self.origin.model).name,  # a path says more than visitors need
            "tower": "ResNet" if isinstance(clip.image, ResNetTower) else "ViT",
            "parameters": sum(weights.numel() for tower in towers for weights in tower.parameters()),
            "device": str(clip.device),
            "precision": str(clip.dtype).removeprefix("torch."),
            "note": EMBEDDED_NOTE if self.origin.model in EMBEDDED else None,
        }


def presets(segmenter: Segmenter) -> dict[str, str]:
    """Presets that differ on this model's tower, the first choice first, with a line on each."""
    resnet = isinstance(segmenter.clip.image, ResNetTower)
    return {
        name: text
        for name, (text, on_resnet) in PRESETS.items()
        if (on_resnet if resnet else name != "maskclip-dilated")
    }
