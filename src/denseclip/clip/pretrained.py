"""open_clip's catalogue, downloads, and which CLIPs work here and are on this machine."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from denseclip.clip import config as configs
from denseclip.clip.build import build_towers
from denseclip.clip.clip import ImageStats
from denseclip.clip.config import PLAIN_WEIGHTS, SUPPORTED, Config, check, settings_beside, unsupported
from denseclip.clip.towers import without_values
from denseclip.errors import UserError, choose, need

EMBEDDED = ("tiny-rn", "tiny-vit")
OPENAI_CACHE = Path("~/.cache/clip")  # where OpenAI's package and open_clip keep downloads by address


@dataclass(frozen=True)
class Pretrained:
    """One set of weights that open_clip can download. `config` carries the activation of the weights."""

    name: str
    tag: str
    config: Config
    stats: ImageStats
    repository: str  # on the Hugging Face hub, "" if there is none
    filename: str  # in that repository, "" for open_clip's usual names
    url: str  # plain download, "" if there is none

    @property
    def label(self) -> str:
        """How the user asks for it."""
        return f"{self.name}:{self.tag}"


def canonical_name(name: str) -> str:
    """OpenAI's spellings become open_clip's: "ViT-L/14@336px" -> "ViT-L-14-336"."""
    return name.replace("/", "-").replace("@336px", "-336")


def is_known(source: str) -> bool:
    """Whether this is the name of a model, with or without a tag; without open_clip any may be one."""
    if source in EMBEDDED or find_spec("open_clip") is None:
        return source in EMBEDDED
    import open_clip

    return canonical_name(source.partition(":")[0]) in open_clip.list_models()


def all_pretrained() -> list[Pretrained]:
    """Every (name, tag) of open_clip whose towers work here, without touching the network; none without it."""
    if find_spec("open_clip") is None:
        return []
    import open_clip

    works = {
        name for name in open_clip.list_models() if unsupported(open_clip.get_model_config(name)) is None
    }
    return [_entry(name, tag) for name, tag in open_clip.list_pretrained() if name in works]


def not_supported() -> dict[str, list[str]]:
    """Names in open_clip's catalogue that do not work here, by the reason; none without it."""
    if find_spec("open_clip") is None:
        return {}
    import open_clip

    found: dict[str, list[str]] = {}
    for name in open_clip.list_models():
        if reason := unsupported(open_clip.get_model_config(name)):
            found.setdefault(re.sub(r"(timm|transformers) model \S+", r"\1 model", reason), []).append(name)
    return found


def find_pretrained(source: str, tag: str | None) -> Pretrained:
    """The weights behind "NAME" or "NAME:TAG"; without a tag OpenAI's, or the only ones there are.

    Raises UserError for an unknown name (with close ones), an unknown tag (with all there are), towers that
    do not work here, and a tag given twice.
    """
    need("open_clip", f"model {source!r}, unless it is a file or {' or '.join(EMBEDDED)},")
    import open_clip

    name, _, inline = source.partition(":")
    if inline and tag:
        raise UserError(f"{source}: pretrained={tag!r} names the weights a second time; give the tag once")
    name, tag = canonical_name(name), inline or tag
    config = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    if config is None:
        raise UserError(f"{source or repr(source)}: no such model or file; {_suggestion(name)}")
    reason = unsupported(config)
    if reason:
        raise UserError(f"{name}: {reason}; {SUPPORTED}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not tags:
        raise UserError(f"{name}: open_clip has no weights for it; pass the path of a file with its weights")
    if tag is None:
        tag = "openai" if "openai" in tags else tags[0] if len(tags) == 1 else None
    if tag is None or not open_clip.pretrained.is_pretrained_cfg(name, tag):
        which = f"no weights {tag!r} for it" if tag else "there are several weights for it"
        raise UserError(f"{name}: {which}; choose one of {', '.join(f'{name}:{known}' for known in tags)}")
    return _entry(name, tag)


def cached(entry: Pretrained) -> Path | None:
    """The file on this machine, without touching the network, or None."""
    found = _in_hub_cache(entry)
    if found is None and entry.url and _beside_openais(entry).is_file():
        return _beside_openais(entry)
    return found


def fetch(entry: Pretrained) -> Path:
    """The file, from this machine's caches or downloaded; UserError says what to fetch by other means."""
    import open_clip.pretrained as source

    found = _in_hub_cache(entry)
    if found is not None:
        return found
    try:
        if entry.url and _beside_openais(entry).is_file():
            return Path(source.download_pretrained_from_url(entry.url))  # checks what is there
        if _hub_answers():
            return Path(source.download_pretrained(source.get_pretrained_cfg(entry.name, entry.tag)))
        if entry.url:
            return Path(source.download_pretrained_from_url(entry.url))
    except Exception as error:  # of many kinds, and each means that the file cannot be had
        raise UserError(_by_other_means(entry)) from error
    raise UserError(_by_other_means(entry))


def _in_hub_cache(entry: Pretrained) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for filename in _filenames(entry):
        found = try_to_load_from_cache(entry.repository, filename) if entry.repository else None
        if isinstance(found, str):
            return Path(found)
    return None


def _beside_openais(entry: Pretrained) -> Path:
    return OPENAI_CACHE.expanduser() / entry.url.rpartition("/")[2]


def _hub_answers() -> bool:
    """One short question: asked for a file, the hub's client would knock for a minute at a closed door."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception:  # no network, no route, offline mode
        return False
    return True


def _entry(name: str, tag: str) -> Pretrained:
    import open_clip

    settings = open_clip.pretrained.get_pretrained_cfg(name, tag)
    repository, _, filename = settings.get("hf_hub", "").rpartition("/")
    config = open_clip.get_model_config(name)
    config["quick_gelu"] = bool(settings.get("quick_gelu", False) or tag == "openai")
    stats = ImageStats(tuple(settings["mean"]), tuple(settings["std"]))
    return Pretrained(name, tag, check(config, name), stats, repository, filename, settings.get("url", ""))


def _filenames(entry: Pretrained) -> list[str]:
    return (
        [entry.filename] if entry.filename else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    )


def _by_other_means(entry: Pretrained) -> str:
    problem = f"{entry.label}: the weights are not on this machine and cannot be downloaded"
    if entry.url and (half := _beside_openais(entry)).is_file():  # a download that stopped, or another file
        return (
            f"{entry.label}: {half} is not whole, its checksum is another one, and it cannot be downloaded again; "
            f"remove it and fetch {entry.url} by other means"
        )
    if entry.tag == "openai":
        return f"{problem}; fetch {entry.url} by other means and pass the path of the file as the model"
    files = f"open_clip_config.json and {' or '.join(_filenames(entry))}"
    return (
        f"{problem}; fetch {files} of huggingface.co/{entry.repository} by other means into one folder "
        "and pass the path of the folder as the model"
    )


def _suggestion(name: str) -> str:
    known = (*EMBEDDED, *(entry.name for entry in all_pretrained()))
    return choose(name, dict.fromkeys(known), "`denseclip models` lists all models")


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
    def local_bytes(self) -> int | None:
        """Size of the file on this machine."""
        return None if self.local is None else self.local.stat().st_size


def catalog() -> list[CatalogRow]:
    """The embedded CLIPs, OpenAI's, the others that open_clip can fetch, transformers folders in the cache.

    Names that only differ by "-quickgelu" are left out: the activation follows the weights anyway.
    """
    tagged = [entry for entry in all_pretrained() if not entry.name.endswith("-quickgelu")]
    tagged.sort(key=lambda entry: entry.tag != "openai")  # stable: open_clip's own order within
    rows = [_row(entry.label, _origin(entry), entry.config, cached(entry)) for entry in tagged]
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


def _origin(entry: Pretrained) -> str:
    return "openai" if entry.tag == "openai" else "open_clip"


def _embedded() -> list[CatalogRow]:
    rows = []
    for name in EMBEDDED:
        weights = configs.ASSETS / name / "model.safetensors"
        if weights.is_file():
            config = settings_beside(weights, hugging_face=False).config
            assert config is not None, weights
            rows.append(_row(name, "embedded", config, weights))
    return rows


def _transformers_cache() -> list[CatalogRow]:
    """`CLIPModel` folders that transformers left in the Hugging Face cache; loaded by their path."""
    if find_spec("huggingface_hub") is None:
        return []
    from huggingface_hub import constants

    rows = []
    for path in sorted(Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*/config.json")):
        weights = [path.parent / name for name in PLAIN_WEIGHTS if (path.parent / name).is_file()]
        if not weights or not _is_clip(path):
            continue
        with suppress(UserError):  # one that load_clip would refuse
            config = settings_beside(weights[0], hugging_face=True).config
            assert config is not None, path
            rows.append(_row(str(path.parent), "transformers", config, weights[0]))
    return rows


def _is_clip(path: Path) -> bool:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("model_type") in ("clip", "siglip")
    except (ValueError, AttributeError):
        return False
