"""Is a data set complete and readable?"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from denseclip.data.coco import BoxesOnlyError
from denseclip.data.datasets import SegmentationDataset
from denseclip.data.instances import InstanceDataset
from denseclip.data.open_things import COCO, open_things
from denseclip.data.opening import open_dataset
from denseclip.data.own import read_own
from denseclip.data.published import dataset_spec, is_dataset
from denseclip.errors import UserError

AnyDataset = SegmentationDataset | InstanceDataset


@dataclass(frozen=True)
class SplitCheck:
    """What was found of one split.

    images: how many it lists; expected: how many the published split has, None for the user's data.
    missing: files that are not there. bad: one message for each image or mask that cannot be used.
    problem: why the split cannot be opened at all, None if it can.
    """

    split: str
    images: int = 0
    expected: int | None = None
    missing: tuple[Path, ...] = ()
    bad: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every listed image can be used and none of the published ones is left out."""
        complete = self.expected is None or self.images == self.expected
        return complete and not (self.missing or self.bad or self.problem)


def check(
    data: str | Path,
    root: str | Path | None = None,
    *,
    quick: bool = False,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> list[SplitCheck]:
    """Look at every split of a data set (`data` and `root` as for `open_dataset`).

    quick: only look whether the files are there, without reading them. workers: threads that read.
    progress: called with (done, total) images of the split at hand.
    Raises UserError only for an unknown data set; what is wrong with a known one is in the answer.
    """
    return [
        check_split(data, root, split, quick=quick, workers=workers, progress=progress)
        for split in _splits(data)
    ]


def check_split(
    data: str | Path,
    root: str | Path | None,
    split: str,
    *,
    quick: bool = False,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> SplitCheck:
    """The same of one split."""
    expected = _splits(data).get(split)
    try:
        dataset = _open(data, root, split)
    except UserError as error:
        return SplitCheck(split, expected=expected, problem=str(error))
    missing = tuple(path for index in range(len(dataset)) for path in _missing(dataset, index))
    bad = () if quick else tuple(_unusable(dataset, workers, progress or _silent))
    return SplitCheck(split, len(dataset), expected, missing, bad)


def _open(data: str | Path, root: str | Path | None, split: str) -> AnyDataset:
    """The split, as data for detection if it has nothing but boxes."""
    if str(data) == COCO:
        return open_things(data, root, split)
    try:
        return open_dataset(data, root, split)
    except BoxesOnlyError:
        return open_things(data, root, split)


def _silent(done: int, total: int) -> None:
    pass


def _splits(data: str | Path) -> dict[str, int | None]:
    """Splits and the published number of images."""
    if str(data) == COCO:
        return {"train": 118_287, "val": 5_000}
    if not is_dataset(str(data)) and Path(data).exists():
        return dict.fromkeys(read_own(Path(data)).splits or ("all",))
    splits = dataset_spec(str(data)).splits
    return {split: sum(part.size or 0 for part in parts) for split, parts in splits.items()}


def _missing(dataset: AnyDataset, index: int) -> list[Path]:
    return [path for path in dataset.entries[index].files if not path.is_file()]


def _unusable(dataset: AnyDataset, workers: int, progress: Callable[[int, int], None]) -> Iterator[str]:
    def read(index: int) -> str | None:
        if _missing(dataset, index) or not dataset.entries[index].files:
            return None  # told already, or rendered
        try:
            dataset[index]
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(workers) as pool:  # decoding lets go of the interpreter
        for done, message in enumerate(pool.map(read, range(len(dataset))), start=1):
            if message:
                yield message
            progress(done, len(dataset))
