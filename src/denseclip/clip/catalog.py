"""What `denseclip models` lists: the CLIPs that work here, and which are on this machine. Stays offline."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from denseclip.clip import folder, hub
from denseclip.clip.model import build_towers, without_values
from denseclip.errors import UserError


@dataclass(frozen=True)
class CatalogRow:
    """One CLIP that `load_clip(row.model)` takes.

    model: name, NAME:TAG or path. origin: "embedded", "openai", "open_clip" or "transformers". tower: "ResNet" or
    "ViT". cell: pixels on the side of one cell of its map (stride or patch). local: its file on this machine, None
    if it must be fetched. config: in open_clip's form.
    """

    model: str
    origin: str
    tower: str
    cell: int
    image_size: int
    embed_dim: int
    quick_gelu: bool
    local: Path | None
    config: Mapping[str, Any] = field(repr=False)

    @cached_property
    def parameters(self) -> int:
        """Of both towers, counted on networks without values."""
        towers = without_values(lambda: build_towers(self.config))
        return sum(tensor.numel() for part in (towers.visual, towers.text) for tensor in part.parameters())

    @property
    def float32_bytes(self) -> int:
        """Memory of the weights in float32; a download is this large, or half of it if stored in float16."""
        return 4 * self.parameters

    @property
    def local_bytes(self) -> int | None:
        """Size of the file on this machine."""
        return None if self.local is None else self.local.stat().st_size


def catalog() -> list[CatalogRow]:
    """The embedded CLIPs, OpenAI's, the others that open_clip can fetch, transformers folders in the cache.

    Names that only differ by "-quickgelu" are left out: the activation follows the weights anyway.
    """
    tagged = [entry for entry in hub.all_pretrained() if not entry.name.endswith("-quickgelu")]
    tagged.sort(key=lambda entry: entry.tag != "openai")  # stable: open_clip's own order within
    rows = [_row(entry.label, _origin(entry), entry.config, hub.cached(entry)) for entry in tagged]
    return [*_embedded(), *rows, *_transformers_cache()]


def _row(model: str, origin: str, config: Mapping[str, Any], local: Path | None) -> CatalogRow:
    vision = config["vision_cfg"]
    is_resnet = isinstance(vision["layers"], list | tuple)
    return CatalogRow(
        model=model,
        origin=origin,
        tower="ResNet" if is_resnet else "ViT",
        cell=32 if is_resnet else vision.get("patch_size", 16),
        image_size=vision.get("image_size", 224),
        embed_dim=config["embed_dim"],
        quick_gelu=bool(config.get("quick_gelu", False)),
        local=local,
        config=config,
    )


def _origin(entry: hub.Pretrained) -> str:
    return "openai" if entry.tag == "openai" else "open_clip"


def _embedded() -> list[CatalogRow]:
    rows = []
    for name in hub.EMBEDDED:
        weights = folder.ASSETS / name / "model.safetensors"
        if weights.is_file():
            config = folder.settings_beside(weights, hugging_face=False).config
            assert config is not None, weights
            rows.append(_row(name, "embedded", config, weights))
    return rows


def _transformers_cache() -> list[CatalogRow]:
    """`CLIPModel` folders that transformers left in the Hugging Face cache; loaded by their path."""
    from huggingface_hub import constants

    rows = []
    for path in sorted(Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*/config.json")):
        weights = [path.parent / name for name in folder.PLAIN_WEIGHTS if (path.parent / name).is_file()]
        if not weights or not _is_clip(path):
            continue
        with suppress(UserError):  # one that load_clip would refuse
            config = folder.settings_beside(weights[0], hugging_face=True).config
            assert config is not None, path
            rows.append(_row(str(path.parent), "transformers", config, weights[0]))
    return rows


def _is_clip(path: Path) -> bool:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("model_type") == "clip"
    except (ValueError, AttributeError):
        return False
