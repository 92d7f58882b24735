"""Any data set by one name: the papers', whose files are looked for here, sticker scenes, or the user's own."""

from collections.abc import Iterator
from pathlib import Path

from denseclip.data.datasets import DatasetSpec, Entry, MaskFile, SegmentationDataset, Split
from denseclip.data.images import walk
from denseclip.data.own import open_own
from denseclip.data.published import dataset_spec, is_dataset
from denseclip.data.sticker_sets import open_stickers
from denseclip.errors import UserError
from denseclip.io import read_lines


def open_split(spec: DatasetSpec, root: Path, split: str | None = None) -> SegmentationDataset:
    """List the images of a split (the default one if None) below `root`; none is read yet.

    Raises UserError if the split is unknown or empty, or a folder or list file is missing.
    """
    name = split or spec.default_split
    if name not in spec.splits:
        raise UserError(f"{spec.name} has no split {name!r}: choose from {', '.join(spec.splits)}")
    folder = find_folder(spec, root)
    entries = [entry for part in spec.splits[name] for entry in _entries(spec, folder, part)]
    if not entries:
        wanted = ", ".join(
            str(folder / (part.ids or part.images.format(id="*"))) for part in spec.splits[name]
        )
        raise UserError(
            f"split {name} of {spec.name} is empty, there is nothing in {wanted}: fetch {spec.source}"
        )
    return SegmentationDataset(spec, name, entries)


def find_folder(spec: DatasetSpec, root: Path) -> Path:
    """The folder of a data set below the user's root, which may also be that folder itself or one between.

    Raises UserError, with what to fetch, if there is none.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}: create it, and put in it {spec.source}")
    top = Path(next(iter(spec.splits.values()))[0].images).parts[0]
    parts = Path(spec.folder).parts
    for start in range(len(parts) + 1):
        folder = root.joinpath(*parts[start:])
        if (folder / top).is_dir():
            return folder
    raise UserError(f"no folder {root / spec.folder / top}: fetch {spec.source}")


def _entries(spec: DatasetSpec, folder: Path, part: Split) -> Iterator[Entry]:
    for image_id in split_ids(spec, folder, part):
        image, mask = (folder / pattern.format(id=image_id) for pattern in (part.images, part.masks))
        yield Entry(image_id, image, MaskFile(mask))


def split_ids(spec: DatasetSpec, folder: Path, part: Split) -> list[str]:
    """Ids of a split in the order of its list file, or of all its images by name.

    Raises UserError if the list file does not exist.
    """
    if part.ids is not None:
        return read_lines(folder / part.ids, spec.fix)
    head, tail = part.images.split("{id}")
    place = folder / head
    found = (
        [path for path in walk(place, (tail[tail.rindex(".") :],)) if path.name.endswith(tail)]
        if place.is_dir()
        else []
    )
    return [path.relative_to(place).as_posix().removesuffix(tail) for path in found]


def open_dataset(
    data: str | Path, root: str | Path | None = None, split: str | None = None
) -> SegmentationDataset:
    """Open a split of a data set (the one to evaluate if `split` is None); no image is read yet.

    data: a name such as "voc20", with `root`, the folder that holds the data set's own; a sticker set such as
    "stickers20", which needs no root; or the user's data: a data.json, or the folder it is in (see
    `denseclip.data.own`).
    Raises UserError for an unknown name or split, a missing folder or list, an empty split.
    """
    if not is_dataset(str(data)) and Path(data).exists():
        return open_own(Path(data), split)
    spec = dataset_spec(str(data))
    if spec.scenes is not None:
        return open_stickers(spec, split)
    if root is None:
        raise UserError(f"where is {spec.name}? Give the folder that holds {spec.folder}")
    return open_split(spec, Path(root), split)
