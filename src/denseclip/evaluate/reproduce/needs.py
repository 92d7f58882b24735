"""What must be on this machine before a table can be run."""

from collections.abc import Sequence
from pathlib import Path

from denseclip.clip.folder import embedded_folder
from denseclip.clip.hub import EMBEDDED, OPENAI_CACHE, cached, fetch, find_pretrained, is_known
from denseclip.data.datasets import SegmentationDataset
from denseclip.data.opening import open_dataset
from denseclip.data.published import dataset_spec
from denseclip.errors import UserError


class MissingError(UserError):
    """Data or weights that are not there; `lines` has one for each, saying what to put where."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = tuple(lines)


def require(models: Sequence[str], data: Sequence[str], root: Path | None) -> None:
    """Raise MissingError unless every model and every data set can be used.

    Weights that are not on this machine are fetched only once all data is there.
    """
    lines = [line for name in data if (line := _missing_data(name, root))]
    lines += [line for source in models if (line := _missing_weights(source, fetching=not lines))]
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


def _missing_data(name: str, root: Path | None) -> str | None:
    spec = dataset_spec(name)
    if root is None:
        wanted = f"the folder that holds {spec.folder}: fetch {spec.source}, then {spec.fix}"
        return f"data: {name} needs --root, {wanted}"
    try:
        dataset = open_dataset(name, root)
    except UserError as error:
        return f"data: {name}: {error}"
    return _missing_files(dataset)


def _missing_files(dataset: SegmentationDataset) -> str | None:
    paths = [path for entry in dataset.entries for path in entry.files]
    absent = [path for path in paths if not path.is_file()]
    if not absent:
        return None
    return (
        f"data: {dataset.spec.name}: {len(absent)} of {len(paths)} files are missing, the first is {absent[0]}: "
        f"{dataset.spec.fix}"
    )
