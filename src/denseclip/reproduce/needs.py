"""What must be on this machine before a table can be made."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from denseclip.clip.convert import embedded_folder
from denseclip.clip.pretrained import EMBEDDED, OPENAI_CACHE, cached, fetch, find_pretrained, is_known
from denseclip.data.open_things import COCO, SOURCE, open_things
from denseclip.data.opening import open_dataset
from denseclip.data.published import dataset_spec
from denseclip.errors import UserError
from denseclip.models.backbones import TIMM, V1C_WEIGHTS, build_backbone
from denseclip.reproduce.runs import Run
from denseclip.reproduce.tables import Scale


class MissingError(UserError):
    """Data or weights that are not there; `lines` has one for each, saying what to put where."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = tuple(lines)


def require(runs: Sequence[Run], scale: Scale, data_root: Path | None) -> None:
    """Raise MissingError unless every model and every data set of the runs can be used.

    Weights that are not on this machine are fetched only once all data is there.
    """
    recipes = [run.recipe for run in runs if run.recipe and run.seed is not None]
    data: dict[tuple[str, str | None], None] = {}
    if scale == "paper":
        data = dict.fromkeys((run.data, None) for run in runs)
        if data_root is not None:
            data |= dict.fromkeys((recipe.data.train, recipe.data.split) for recipe in recipes)
    lines = [f"data: {line}" for name, split in data if (line := _missing_data(name, data_root, split))]
    fetching = not lines
    clips = dict.fromkeys(clip for run in runs for clip in run.clips)
    students = [recipe.student for recipe in recipes if recipe.system == "maskclip+"]
    backbones = dict.fromkeys(part.backbone for part in students if part.pretrained and not part.from_clip)
    missing = [
        *(_missing_clip(name, fetching) for name in clips),
        *(_missing_backbone(name, fetching) for name in backbones),
    ]
    lines += [f"weights: {line}" for line in missing if line]
    if lines:
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


def _missing_clip(source: str, fetching: bool) -> str:
    if source in EMBEDDED:
        return f"{source} is not in this installation" if not_installed([source]) else ""
    if not is_known(source):
        return "" if Path(source).exists() else f"there is no {source}"
    entry = find_pretrained(source, None)
    if fetching or cached(entry) is not None:
        return _error(fetch, entry) if cached(entry) is None else ""
    home = OPENAI_CACHE / entry.url.rpartition("/")[2]
    return (
        f"{source} is not on this machine: put {entry.url} in {home.parent} as {home.name}, "
        f"give its path with --model {source}=PATH, or let it be downloaded once the data is there"
    )


def _missing_backbone(name: str, fetching: bool) -> str:
    """ImageNet's weights are in the hub's cache, or are fetched."""
    if fetching:
        return _error(lambda: build_backbone(name, pretrained=True))
    import timm
    from huggingface_hub import try_to_load_from_cache

    known = timm.get_pretrained_cfg(V1C_WEIGHTS.get(name, name.removeprefix(TIMM)))
    hub = (known and known.hf_hub_id) or ""
    files = ("model.safetensors", "pytorch_model.bin") if hub else ()
    if any(isinstance(try_to_load_from_cache(hub, file), str) for file in files):
        return ""
    return (
        f"ImageNet's for the backbone {name} are not on this machine: let them be downloaded once the data is there, "
        "or set student.pretrained = false in a recipe of your own"
    )


def _missing_data(name: str, data_root: Path | None, split: str | None) -> str:
    where = f"{name} ({split})" if split else name
    spec = None if name == COCO else dataset_spec(name)
    if data_root is None:
        folder, source = (spec.folder, f"{spec.source}, then {spec.fix}") if spec else ("it", SOURCE)
        return f"{where} needs --data-root, the folder that holds {folder}: fetch {source}"
    error = _error(open_dataset if spec else open_things, name, data_root, split)
    if error or spec is None:
        return error and f"{where}: {error}"
    paths = [path for entry in open_dataset(name, data_root, split).entries for path in entry.files]
    absent = [path for path in paths if not path.is_file()]
    said = f"{where}: {len(absent)} of {len(paths)} files are missing, the first is"
    return f"{said} {absent[0]}: {spec.fix}" if absent else ""
