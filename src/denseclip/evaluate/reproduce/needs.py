"""What must be on this machine before a table can be run."""

from collections.abc import Sequence
from pathlib import Path

from denseclip.clip.folder import embedded_folder
from denseclip.clip.hub import EMBEDDED, OPENAI_CACHE, cached, fetch, find_pretrained, is_known
from denseclip.data.datasets import SegmentationDataset
from denseclip.data.open_things import COCO, SOURCE, open_things
from denseclip.data.opening import open_dataset
from denseclip.data.published import dataset_spec
from denseclip.errors import UserError
from denseclip.nets.backbones import TIMM, V1C_WEIGHTS, build_backbone


class MissingError(UserError):
    """Data or weights that are not there; `lines` has one for each, saying what to put where."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = tuple(lines)


def require(
    models: Sequence[str],
    data: Sequence[str],
    root: Path | None,
    *,
    splits: Sequence[tuple[str, str]] = (),
    backbones: Sequence[str] = (),
) -> None:
    """Raise MissingError unless every model and every data set can be used.

    splits: data sets with what is trained on. backbones: names whose ImageNet weights training starts from.
    Weights that are not on this machine are fetched only once all data is there.
    """
    lines = [line for name in data if (line := _missing_data(name, root))]
    if root is not None:
        lines += [line for name, split in splits if (line := _missing_data(name, root, split))]
    fetching = not lines
    lines += [line for source in models if (line := _missing_weights(source, fetching=fetching))]
    lines += [line for name in backbones if (line := _missing_backbone(name, fetching=fetching))]
    if lines:
        raise MissingError(lines)


def have_embedded(source: str) -> bool:
    """Whether a model is not one of the embedded ones, or is one and is there."""
    if source not in EMBEDDED:
        return True
    try:
        embedded_folder(source)
    except UserError:
        return False
    return True


def _missing_weights(source: str, *, fetching: bool) -> str | None:
    if not is_known(source):
        return None if Path(source).exists() else f"weights: there is no {source}"
    if source in EMBEDDED:
        return None if have_embedded(source) else f"weights: {source} is not in this installation"
    entry = find_pretrained(source, None)
    if cached(entry) is not None:
        return None
    if fetching:
        try:
            fetch(entry)
        except UserError as error:
            return f"weights: {error}"
        return None
    home = OPENAI_CACHE / entry.url.rpartition("/")[2]
    return (
        f"weights: {source} is not on this machine: put {entry.url} in {home.parent} as {home.name}, "
        f"give its path with --model {source}=PATH, or let it be downloaded once the data is there"
    )


def _missing_backbone(name: str, *, fetching: bool) -> str | None:
    """ImageNet's weights are in the hub's cache, or are fetched."""
    if fetching:
        try:
            build_backbone(name, pretrained=True)
        except UserError as error:
            return f"weights: {error}"
        return None
    if imagenet_cached(name):
        return None
    return (
        f"weights: ImageNet's for the backbone {name} are not on this machine: let them be downloaded once the data "
        "is there, or set student.pretrained = false in a recipe of your own"
    )


def imagenet_cached(name: str) -> bool:
    """Whether the ImageNet weights of a backbone are in the hub's cache."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    known = timm.get_pretrained_cfg(V1C_WEIGHTS.get(name, name.removeprefix(TIMM)))
    if known is None or not known.hf_hub_id:
        return False
    files = ("model.safetensors", "pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(known.hf_hub_id, file), str) for file in files)


def _missing_data(name: str, root: Path | None, split: str | None = None) -> str | None:
    if name == COCO:
        return _missing_coco(root, split)
    spec = dataset_spec(name)
    if root is None:
        wanted = f"the folder that holds {spec.folder}: fetch {spec.source}, then {spec.fix}"
        return f"data: {name} needs --root, {wanted}"
    try:
        dataset = open_dataset(name, root, split)
    except UserError as error:
        return f"data: {name}{f' ({split})' if split else ''}: {error}"
    return _missing_files(dataset)


def _missing_coco(root: Path | None, split: str | None) -> str | None:
    if root is None:
        return f"data: {COCO} needs --root, the folder that holds it: fetch {SOURCE}"
    try:
        open_things(COCO, root, split)
    except UserError as error:
        return f"data: {COCO}{f' ({split})' if split else ''}: {error}"
    return None


def _missing_files(dataset: SegmentationDataset) -> str | None:
    paths = [path for entry in dataset.entries for path in entry.files]
    absent = [path for path in paths if not path.is_file()]
    if not absent:
        return None
    return (
        f"data: {dataset.spec.name}: {len(absent)} of {len(paths)} files are missing, the first is {absent[0]}: "
        f"{dataset.spec.fix}"
    )
