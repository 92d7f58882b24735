"""The model that a page holds, its limits, and what can be chosen for it."""

from dataclasses import dataclass
from pathlib import PurePath
from threading import Lock
from typing import Any

import torch

from denseclip.clip import Clip
from denseclip.clip.pretrained import EMBEDDED
from denseclip.clip.towers import ResNet
from denseclip.errors import UserError
from denseclip.loading import load
from denseclip.models.checkpoint import DETECTORS, trained_kind
from denseclip.segment.segmenter import Model
from denseclip.text.embeddings import EmbeddingCache, Rows
from denseclip.web.request import Limits, Origin
from denseclip.web.session import SharedModel


class MemoryCache(EmbeddingCache):
    """The rows of the words asked for last, at most `limit`, shared by all visitors of a page."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit_bytes=0)
        self.limit = limit
        self._lock = Lock()
        self._groups: dict[str, Rows] = {}

    def load(self, group: str) -> Rows:
        """All rows of a group, a copy that the caller may change."""
        with self._lock:
            return dict(self._groups.get(group, {}))

    def store(self, group: str, rows: Rows) -> None:
        """Add rows to a group; drop the oldest rows, of the oldest groups first, beyond the limit."""
        with self._lock:
            kept = self._groups.pop(group, {})
            self._groups[group] = kept | rows  # the latest group goes to the end
            over = sum(map(len, self._groups.values())) - self.limit
            for name in list(self._groups):
                if over <= 0:
                    break
                oldest = list(self._groups[name])[:over]
                for key in oldest:
                    del self._groups[name][key]
                over -= len(oldest)


PRESETS = {  # name: (what it is, whether it says something new for a ResNet)
    "maskclip-dilated": ("MaskCLIP on a map twice as fine", True),
    "maskclip": ("values of the last attention, no mixing", True),
    "maskclip-reduced": ("the same without residual and MLP", False),
    "clearclip": ("queries look at queries", True),
    "naclip": ("keys look at keys, near ones more", True),
    "sclip": ("queries at queries, keys at keys", True),
    "sc-clip": ("odd tokens mended, similar ones agree", False),
    "resclip": ("attention of the middle blocks, too", False),
    "vanilla": ("CLIP as it is, for comparison", True),
}

EMBEDDED_NOTE = (
    "This small model knows the stickers of the examples and nothing of photographs. For those, start the page with "
    "a CLIP that does, such as"
)
INSTEAD = "denseclip serve --model ViT-B-16"


@dataclass(frozen=True)
class ModelServer:
    """A model, how it was loaded, and the page's first choice of preset."""

    shared: SharedModel
    origin: Origin
    limits: Limits
    preset: str

    @classmethod
    def open(cls, origin: Origin, limits: Limits, preset: str | None = None) -> "ModelServer":
        """Load a model. preset: the page's first choice; None for the best one for the model.

        Raises UserError for what cannot be loaded.
        """
        if trained_kind(origin.model) in DETECTORS:
            raise UserError(
                f"{origin.model} is a detector; give a model that segments, or use `denseclip detect`"
            )
        model = load(origin.model, cache=False, **origin.options).clip
        known = presets(model)
        first = preset or model.recommended.get("preset") or next(iter(known))
        if first not in known:
            raise UserError(f"preset {first!r} is not for {origin.model}; choose one of {', '.join(known)}")
        return cls(SharedModel(model, MemoryCache(limits.rows)), origin, limits, first)

    def about(self) -> dict[str, Any]:
        """Which model this is: a line of text, a note that a command ends or None, its own words or None."""
        model = self.shared.model
        name = PurePath(self.origin.model).name  # a path says more than visitors need
        if isinstance(model, Clip):
            note = EMBEDDED_NOTE if self.origin.model in EMBEDDED else None
            return {"text": f"{name}: {_clip_line(model)}", "note": note, "instead": INSTEAD, "words": None}
        own = ", ".join("|".join(words) for words in model.class_prompts.prompts)
        return {
            "text": model.describe().replace(model.name, name, 1),
            "note": None,
            "instead": INSTEAD,
            "words": own,
        }


def presets(model: Model) -> dict[str, str]:
    """Presets that differ on this model, the first choice first, with a line on each."""
    if not isinstance(model, Clip):
        return {"maskclip": "the network as it was trained; it has no last block to vary"}
    resnet = isinstance(model.visual, ResNet)
    return {
        name: text
        for name, (text, on_resnet) in PRESETS.items()
        if (on_resnet if resnet else name != "maskclip-dilated")
    }


def _clip_line(clip: Clip) -> str:
    towers: list[torch.nn.Module] = [clip.visual, clip.text]
    count = sum(weights.numel() for tower in towers for weights in tower.parameters())
    kind = "ResNet" if isinstance(clip.visual, ResNet) else "ViT"
    dtype = str(clip.dtype).removeprefix("torch.")
    return f"{kind}, {count / 1e6:.1f} M parameters, {clip.device} {dtype}"
