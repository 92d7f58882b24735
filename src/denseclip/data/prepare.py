"""From the official archives' layout to the files that the loader reads (maskclip section f)."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from denseclip.data.datasets import DatasetSpec, read_ids
from denseclip.data.opening import find_folder
from denseclip.data.published import dataset_spec
from denseclip.errors import UserError, need
from denseclip.io import atomic_path, read_lines, write_text
from denseclip.text.prompts import facts


@dataclass(frozen=True)
class Conversion:
    """One file to write. variable: None for an image of ids, or what holds them in a MATLAB file: "GTcls" of
    SBD or "LabelMap" of PASCAL-Context. table: {stored id: written id}; None to keep the ids.
    """

    source: Path
    target: Path
    variable: str | None = None
    table: Mapping[int, int] | None = None


def convert(job: Conversion) -> str | None:
    """Write the target, whole or not at all; returns the message for the user if it fails."""
    try:
        ids = _read(job)
        if job.table is not None:
            ids = _mapped(ids, job.table, job.source)
        with atomic_path(job.target) as temporary:
            Image.fromarray(ids.astype(np.uint8)).save(temporary)
    except UserError as error:
        return str(error)
    return None


def _read(job: Conversion) -> NDArray[Any]:
    if job.variable is None:
        return read_ids(job.source)
    need("scipy", "a MATLAB file")
    from scipy.io import loadmat

    try:
        found = loadmat(job.source, variable_names=[job.variable])[job.variable]
        return found["Segmentation"][0, 0] if job.variable == "GTcls" else found
    except Exception as error:  # scipy raises whatever the damaged bytes lead to
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise UserError(f"cannot read {job.source} ({reason}): fetch it again") from None


def _mapped(ids: NDArray[Any], table: Mapping[int, int], source: Path) -> NDArray[Any]:
    lookup = np.full(max(*table, int(ids.max(initial=0))) + 1, -1, np.int32)
    lookup[list(table)] = list(table.values())
    mapped = lookup[ids]
    if mapped.min(initial=0) < 0:
        raise UserError(
            f"{source} has id {int(ids[mapped < 0][0])}, which its data set does not have: fetch it again"
        )
    return mapped


Progress = Callable[[int, int], None]  # done, total
_CITY_IDS = (
    7,
    8,
    11,
    12,
    13,
    17,
    19,
    20,
    21,
    22,
    23,
    24,
    25,
    26,
    27,
    28,
    31,
    32,
    33,
)  # the 19 of 34 that count


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did. failed: one message for each file that could not be converted."""

    written: int
    kept: int
    lists: tuple[Path, ...]
    failed: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    jobs: Sequence[Conversion] = ()
    lists: Mapping[Path, Sequence[str]] = field(default_factory=dict)


def prepare(name: str, root: str | Path, *, workers: int = 1, progress: Progress | None = None) -> Prepared:
    """Convert the masks of a data set and write its lists of ids below `root`.

    Files that exist are kept, so an interrupted run goes on where it stopped; nothing is written half.
    workers: processes. progress: called with (done, total) files.
    Raises UserError if the data set is unknown or its archives are not there.
    """
    spec = dataset_spec(name)
    if spec.scenes is not None:
        raise UserError(f"{spec.name} needs no preparation, its scenes are rendered: evaluate it as it is")
    folder = find_folder(spec, Path(root))
    plan = _PLANS[spec.name](spec, folder)
    todo = [job for job in plan.jobs if not job.target.exists()]
    failed = _run(todo, workers, progress or _silent)
    for path, ids in plan.lists.items():
        if path.exists():
            continue
        write_text(path, "".join(f"{image_id}\n" for image_id in ids))
    return Prepared(len(todo) - len(failed), len(plan.jobs) - len(todo), tuple(plan.lists), tuple(failed))


def _silent(done: int, total: int) -> None:
    pass


def _run(jobs: Sequence[Conversion], workers: int, progress: Progress) -> list[str]:
    failed = []
    progress(0, len(jobs))
    if workers > 1 and len(jobs) > 1:
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        results = pool.map(convert, jobs, chunksize=16)
    else:
        pool, results = None, map(convert, jobs)
    try:
        for done, message in enumerate(results, start=1):
            if message:
                failed.append(message)
            progress(done, len(jobs))
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    return failed


def _files(place: Path, pattern: str, spec: DatasetSpec) -> list[Path]:
    found = sorted(place.glob(pattern))
    if not found:
        raise UserError(f"no {place / pattern}: fetch {spec.source}")
    return found


def _voc(spec: DatasetSpec, folder: Path) -> _Plan:
    """SBD's masks, and the lists aug (9,118 images of SBD alone) and trainaug (10,582, with VOC's train)."""
    boundaries = folder.parent / "VOCaug" / "dataset"
    lists = folder / "ImageSets" / "Segmentation"
    missing = f"fetch {spec.source}"
    train, val = (set(read_lines(lists / f"{split}.txt", missing)) for split in ("train", "val"))
    more = {k for split in ("train", "val") for k in read_lines(boundaries / f"{split}.txt", missing)}
    jobs = [
        Conversion(path, folder / "SegmentationClassAug" / f"{path.stem}.png", "GTcls")
        for path in _files(boundaries / "cls", "*.mat", spec)
    ]
    trainaug = (train | more) - val
    ids = {"aug": trainaug - train, "trainaug": trainaug}
    return _Plan(jobs, {lists / f"{split}.txt": sorted(found) for split, found in ids.items()})


def _context(spec: DatasetSpec, folder: Path) -> _Plan:
    """The 459 categories become the 59 that are used, all others background; lists as VOC 2010 splits."""
    table = dict.fromkeys(range(460), 0) | {raw: k for k, raw in enumerate(facts().context_raw_ids)}
    maps = {path.stem: path for path in _files(folder / "trainval", "*.mat", spec)}
    jobs = [
        Conversion(path, folder / "SegmentationClassContext" / f"{stem}.png", "LabelMap", table)
        for stem, path in maps.items()
    ]
    lists = {}
    for split in ("train", "val"):
        ids = read_lines(folder / "ImageSets" / "Main" / f"{split}.txt", f"fetch {spec.source}")
        lists[folder / "ImageSets" / "SegmentationContext" / f"{split}.txt"] = [k for k in ids if k in maps]
    return _Plan(jobs, lists)


def _coco(spec: DatasetSpec, folder: Path) -> _Plan:
    """Ids 0..181 lose their gaps; for COCO-Object things move up by one and all else becomes background."""
    raw = [k for k in range(182) if k not in facts().coco_stuff_missing_ids]
    table = {old: new for new, old in enumerate(raw)} | {255: 255}
    suffix = "_labelTrainIds.png"
    if spec.name == "coco-object":
        table = {old: new + 1 if new < 80 else 0 for old, new in table.items()}
        suffix = "_instanceTrainIds.png"
    sources = [
        path
        for split in ("train2017", "val2017")
        for path in sorted((folder / "annotations" / split).glob("*.png"))
        if not path.stem.endswith("TrainIds")
    ]
    if not sources:
        raise UserError(f"no {folder / 'annotations' / 'val2017' / '*.png'}: fetch {spec.source}")
    return _Plan([Conversion(path, path.with_name(path.stem + suffix), None, table) for path in sources])


def _cityscapes(spec: DatasetSpec, folder: Path) -> _Plan:
    table = dict.fromkeys(range(256), 255) | {raw: k for k, raw in enumerate(_CITY_IDS)}
    sources = _files(folder / "gtFine", "*/*/*_gtFine_labelIds.png", spec)
    renamed = ((path, path.name.replace("_labelIds", "_labelTrainIds")) for path in sources)
    return _Plan([Conversion(path, path.with_name(name), None, table) for path, name in renamed])


def _nothing(spec: DatasetSpec, folder: Path) -> _Plan:
    """ADE20K is read as it is published."""
    return _Plan()


_PLANS: dict[str, Callable[[DatasetSpec, Path], _Plan]] = {
    "voc20": _voc,
    "voc21": _voc,
    "context59": _context,
    "context60": _context,
    "coco-stuff": _coco,
    "coco-object": _coco,
    "ade20k": _nothing,
    "cityscapes": _cityscapes,
}
