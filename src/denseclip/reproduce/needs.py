"""What a table needs, and whether it is there: data sets and weights, and where to get, how to unpack each."""

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from denseclip.clip.config import embedded_folder
from denseclip.clip.pretrained import EMBEDDED, OPENAI_CACHE, cached, fetch, find_pretrained, is_known
from denseclip.data.check import check_split
from denseclip.data.open_things import COCO
from denseclip.data.published import dataset_spec
from denseclip.errors import UserError
from denseclip.evaluate.costs import clip_on_meta
from denseclip.models.backbones import TIMM, V1C_WEIGHTS, build_backbone
from denseclip.reproduce.runs import Run
from denseclip.reproduce.tables import Scale
from denseclip.segment.proxy import load_proxy

GIGA = 1e9


class MissingError(UserError):
    """Data or weights that are not there; `lines` has one for each, saying what to put where."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = tuple(lines)


@dataclass(frozen=True)
class Need:
    """A data set or weights. missing: what to get, and what to do with it; "" if it is there. note: what is not as
    published in what is there.
    """

    name: str
    missing: str = ""
    note: str = ""

    def __str__(self) -> str:
        if self.missing:
            return self.missing
        return f"{self.name}: there{f', but {self.note}' if self.note else ''}"


def needs(runs: Sequence[Run], scale: Scale, data_root: Path | None, *, get: bool = True) -> list[Need]:
    """Every data set and all weights of the runs.

    get: download weights that are not on this machine, but only once all data is there.
    """
    recipes = [run.recipe for run in runs if run.recipe and run.seed is not None]
    data: dict[tuple[str, str | None], None] = {}
    if scale == "paper":
        data = dict.fromkeys((run.data, run.recipe.data.val_split if run.recipe else None) for run in runs)
        if data_root is not None:
            data |= dict.fromkeys((recipe.data.train, recipe.data.split) for recipe in recipes)
    found = [_data(name, data_root, split) for name, split in data]
    get = get and not any(need.missing for need in found)
    students = [recipe.student for recipe in recipes if recipe.system == "maskclip+"]
    backbones = dict.fromkeys(part.backbone for part in students if part.pretrained and not part.from_clip)
    found += [_clip(clip, get) for clip in dict.fromkeys(clip for run in runs for clip in run.clips)]
    proxies = dict.fromkeys(str(run.settings["proxy"]) for run in runs if run.settings.get("proxy"))
    return found + [_backbone(name, get) for name in backbones] + [_proxy(name, get) for name in proxies]


def require(found: Iterable[Need]) -> None:
    """Raise MissingError unless everything is there."""
    if lines := [need.missing for need in found if need.missing]:
        raise MissingError(lines)


def not_installed(sources: Iterable[str]) -> list[str]:
    """The embedded models among them that this installation lacks."""
    return [name for name in dict.fromkeys(sources) if name in EMBEDDED and _error(embedded_folder, name)]


def _error(function: Callable[..., object], *arguments: object) -> str:
    """What the user is told when it fails, "" if it does not."""
    try:
        function(*arguments)
    except UserError as error:
        return str(error)
    return ""


def _clip(source: str, get: bool) -> Need:
    name = f"weights: {source}"
    if source in EMBEDDED:
        lacks = bool(not_installed([source]))
        return Need(name, f"{name} is not in this installation; install denseclip again" if lacks else "")
    if not is_known(source):
        return Need(name, "" if Path(source).exists() else f"weights: there is no {source}; correct its path")
    entry = find_pretrained(source, None)
    if get or cached(entry) is not None:
        error = _error(fetch, entry) if get else ""  # which also checks what is there
        return Need(name, error and f"weights: {error}")
    home = OPENAI_CACHE / entry.url.rpartition("/")[2]
    size = 2 * sum(p.numel() for tower in _towers(source) for p in tower.parameters()) / GIGA  # float16
    return Need(
        name,
        f"{name} is not on this machine: put {entry.url} (about {size:.1f} GB) in {home.parent} as {home.name}, "
        f"give its path with --weights {source}=PATH, or let it be downloaded once the data is there",
    )


def _towers(source: str) -> tuple[Any, Any]:
    clip = clip_on_meta(source)
    return clip.visual, clip.text


def _backbone(backbone: str, get: bool) -> Need:
    """ImageNet's weights are in the hub's cache, or are fetched."""
    name = f"weights: ImageNet's for the backbone {backbone}"
    if get:
        error = _error(lambda: build_backbone(backbone, pretrained=True))
        return Need(name, error and f"weights: {error}")
    if _in_cache(V1C_WEIGHTS.get(backbone, backbone.removeprefix(TIMM))):
        return Need(name)
    return Need(
        name,
        f"{name} are not on this machine: let them be downloaded once the data is there, "
        "or set student.pretrained = false in a recipe of your own",
    )


def _proxy(source: str, get: bool) -> Need:
    """The second tower of ProxyCLIP, which timm fetches."""
    name = f"weights: {source}"
    if get:
        error = _error(load_proxy, source)
        return Need(name, error and f"weights: {error}")
    if _in_cache(source.removeprefix(TIMM)):
        return Need(name)
    return Need(name, f"{name} are not on this machine: let them be downloaded once the data is there")


def _in_cache(model: str) -> bool:
    """Whether timm's weights of that name are in the hub's cache."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    known = timm.get_pretrained_cfg(model)
    hub = (known and known.hf_hub_id) or ""
    files = ("model.safetensors", "pytorch_model.bin") if hub else ()
    return any(isinstance(try_to_load_from_cache(hub, file), str) for file in files)


def _data(data: str, data_root: Path | None, split: str | None) -> Need:
    """Whether every file that the split lists is there, and as many as are published."""
    split = split or ("val" if data == COCO else dataset_spec(data).default_split)
    name = f"data: {data} ({split})"
    if data_root is None:
        folder = "coco" if data == COCO else dataset_spec(data).folder
        return Need(name, f"{name} needs --data-root, the folder that holds {folder}: {_get(data, split)}")
    found = check_split(data, data_root, split, quick=True)
    if found.problem:
        return Need(name, f"{name}: {found.problem.partition(': fetch ')[0]}; {_get(data, split)}")
    if found.missing:
        said = f"{len(found.missing)} files are missing, the first is {found.missing[0]}"
        return Need(name, f"{name}: {said}; {_get(data, split)}")
    if found.expected not in (None, found.images):
        said = f"{found.images:,} of {found.expected:,} images"
        return Need(name, note=f"only {said}, and no figure is as published: unpack its archives again")
    return Need(name)


def _get(data: str, split: str) -> str:
    """What to fetch and how to unpack it, in one line."""
    parts = [
        f"fetch {one['file']} ({one['gigabytes']:g} GB) from {one['where']} and unpack it in --data-root: "
        f"`{one['unpack']}`"
        for one in archives()
        if data in one["data"] and (split == "train" or not one.get("train"))
    ]
    ready = () if data in (COCO, "ade20k") else (f"run `denseclip data prepare {data} ROOT`",)
    return "; then ".join([*parts, *ready])


@cache
def archives() -> tuple[Mapping[str, Any], ...]:
    """Of the papers' data sets: data (names), file, where, gigabytes, unpack, and whether for training alone."""
    text = (files("denseclip.recipes") / "archives.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)["archives"])
