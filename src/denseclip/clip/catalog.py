"""What `denseclip models` lists: the CLIPs that work here, and which are on this machine. Stays offline."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from denseclip.clip import folder, hub
from denseclip.errors import UserError


@dataclass(frozen=True)
class CatalogRow:
    """One CLIP that `load_clip(row.model)` takes.

    model: name, NAME:TAG or path. origin: "embedded", "openai", "open_clip" or "transformers". tower:
    "ResNet" or "ViT". cell: pixels on the side of one cell of its map (stride or patch). parameters: of both
    towers. local: its file on this machine, None if it must be fetched.
    """

    model: str
    origin: str
    tower: str
    cell: int
    image_size: int
    embed_dim: int
    quick_gelu: bool
    parameters: int
    local: Path | None

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


def parameter_count(config: Mapping[str, Any]) -> int:
    """Parameters of both towers of an open_clip model configuration, counted without building it."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    width, embed = text.get("width", 512), config["embed_dim"]
    words = width * (text.get("vocab_size", 49408) + text.get("context_length", 77) + 2 + embed)
    is_resnet = isinstance(vision["layers"], list | tuple)
    image = _resnet_parameters(vision, embed) if is_resnet else _vit_parameters(vision, embed)
    return image + words + text.get("layers", 12) * _block_parameters(text, width)


def _vit_parameters(vision: Mapping[str, Any], embed: int) -> int:
    width, patch = vision.get("width", 768), vision.get("patch_size", 16)
    tokens = (
        vision.get("image_size", 224) // patch
    ) ** 2 + 2  # positions, their class token's, the token itself
    norms = 2 if vision.get("no_ln_pre") else 4
    return width * (3 * patch**2 + tokens + norms + embed) + vision["layers"] * _block_parameters(
        vision, width
    )


def _block_parameters(part: Mapping[str, Any], width: int) -> int:
    hidden = int(width * part.get("mlp_ratio", 4.0))
    scales = 2 * width if part.get("ls_init_value") is not None else 0
    return 4 * width * (width + 1) + 2 * width * hidden + hidden + width + 4 * width + scales


def _resnet_parameters(vision: Mapping[str, Any], embed: int) -> int:
    width = vision["width"]
    half, incoming = width // 2, width
    total = 27 * half + 9 * half**2 + 9 * half * width + 2 * (2 * half + width)  # the stem and its norms
    for stage, blocks in enumerate(vision["layers"]):
        planes = width * 2**stage
        total += incoming * planes * 4 + 8 * planes  # the shortcut
        for _ in range(blocks):
            total += incoming * planes + 9 * planes**2 + 4 * planes**2 + 12 * planes
            incoming = 4 * planes
    channels = 32 * width
    positions = (vision.get("image_size", 224) // 32) ** 2 + 1
    return total + 3 * channels * (channels + 1) + embed * (channels + 1) + positions * channels


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
        parameters=parameter_count(config),
        local=local,
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
