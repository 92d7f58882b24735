"""Any data set with instances by one name: COCO, sticker scenes, or the user's own."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from denseclip.data.coco_entries import read_instances
from denseclip.data.instances import InstanceDataset, InstanceSample, Targets, encode, need_pycocotools
from denseclip.data.opening import dataset_spec, is_dataset
from denseclip.data.own import read_own
from denseclip.data.sticker_sets import StickerEntry, open_stickers
from denseclip.errors import UserError

COCO, COCO_SPLITS = "coco", ("train", "val")
HIDDEN = 0.2  # things of which less can be seen are not counted
SOURCE = "train2017.zip, val2017.zip and annotations_trainval2017.zip of COCO"


@dataclass(frozen=True)
class StickerInstances:
    """The things of a sticker scene; those that hardly can be seen are as crowds."""

    entry: StickerEntry
    classes: tuple[str, ...]
    number: int

    @property
    def image_id(self) -> str:
        """See `StickerEntry`."""
        return self.entry.image_id

    @property
    def files(self) -> tuple[Path, ...]:
        """None: it is rendered."""
        return ()

    def read(self) -> InstanceSample:
        """Render it."""
        scene = self.entry.scene()
        found = []
        for i, thing in enumerate(scene.things):
            mask = scene.instances == i + 1
            if thing.name in self.classes and mask.any():
                label = self.classes.index(thing.name)
                found.append((thing.box, label, float(mask.sum()), thing.visible < HIDDEN, encode(mask)))
        return InstanceSample(self.image_id, self.number, np.asarray(scene.image), Targets.of(found))


def open_things(
    data: str | Path,
    root: str | Path | None = None,
    split: str | None = None,
    *,
    side: int | None = None,
    learn: bool = False,
) -> InstanceDataset:
    """Open a split of a data set (the one to evaluate if `split` is None); no image is read yet.

    data: "coco", with `root`, the folder that holds annotations/instances_val2017.json; a sticker set such as
    "stickers20", in pictures of `side` pixels; or the user's data: a data.json with `coco`, or the folder it is in.
    learn: leave out images of COCO without a box.
    Raises UserError for an unknown name or split, what is missing, and for what is wrong in a file.
    """
    need_pycocotools()
    found = _opened(data, root, split, side, learn=learn)
    if not found.entries:
        raise UserError(
            f"split {found.split} of {found.name} has no images: add images, or choose another split"
        )
    return found


def _opened(
    data: str | Path, root: str | Path | None, split: str | None, side: int | None, *, learn: bool
) -> InstanceDataset:
    if str(data).strip().lower() in (COCO, "coco2017"):
        return _coco(root, split or "val", learn=learn)
    if not is_dataset(str(data)) and Path(data).exists():
        return _own(Path(data), split)
    if not is_dataset(str(data)):
        raise UserError(f"unknown data set {str(data)!r}: choose coco, stickers20, or give a data.json")
    spec = dataset_spec(str(data))
    if spec.scenes is None:
        raise UserError(
            f"{spec.name} has no boxes: choose coco, a sticker set, or give a data.json with coco"
        )
    scenes = open_stickers(spec, split, **({} if side is None else {"side": side}))
    names = spec.scenes.things
    entries = [StickerInstances(entry, names, i) for i, entry in enumerate(scenes.entries, start=1)]
    return InstanceDataset(spec.name, scenes.split, names, range(1, len(names) + 1), entries)


def _coco(root: str | Path | None, split: str, *, learn: bool) -> InstanceDataset:
    if split not in COCO_SPLITS:
        raise UserError(f"coco has no split {split!r}: choose from {', '.join(COCO_SPLITS)}")
    if root is None:
        raise UserError("where is coco? Give the folder that holds its annotations and images")
    file = f"annotations/instances_{split}2017.json"
    folder = next((f for f in (Path(root), Path(root) / "coco") if (f / file).is_file()), None)
    if folder is None:
        raise UserError(f"no file {Path(root) / 'coco' / file}: fetch {SOURCE}")
    images = folder / f"{split}2017"
    if not images.is_dir():
        raise UserError(f"no folder {images}: fetch {SOURCE}")
    names, ids, entries = read_instances(folder / file, images, lenient=True)
    return InstanceDataset(COCO, split, names, ids, [e for e in entries if e.learnable or not learn])


def _own(path: Path, split: str | None) -> InstanceDataset:
    own = read_own(path)
    if own.coco is None:
        raise UserError(f"{own.name} has no boxes: give `coco`, an instances JSON, in its data.json")
    if not own.images.is_dir():
        raise UserError(f"no images folder {own.images}: create it, or correct `images`")
    names, ids, entries = read_instances(own.coco, own.images)
    if not names:
        raise UserError(f"{own.name} declares no classes: add categories to {own.coco}")
    return InstanceDataset(own.name, split or "all", names, ids, own.chosen(entries, split))
