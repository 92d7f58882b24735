"""Any data set by one name: the papers', sticker scenes, or the user's own."""

from pathlib import Path

from denseclip.data.datasets import SegmentationDataset
from denseclip.data.layout import open_split
from denseclip.data.own import open_own
from denseclip.data.published import dataset_spec, is_dataset
from denseclip.data.sticker_sets import open_stickers
from denseclip.errors import UserError


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
