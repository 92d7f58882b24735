"""What a data set is: its classes, where its files lie, what labels mean; and its labeled images, one by one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from denseclip.data.images import read_image, upright
from denseclip.data.stickers import SceneRecipe
from denseclip.data.transforms import ResizeRule
from denseclip.errors import UserError

IGNORE = 255
UNLABELED = -1


def ignore_index(classes: int) -> int:
    """What pixels that are not counted become: 255, or 65535 where 255 is a class."""
    return IGNORE if classes <= IGNORE else 65535


Color = tuple[int, int, int]
_USUAL_RESIZE = ResizeRule("long-short", (2048, 512))


@dataclass(frozen=True)
class Split:
    """Where the files of a split are, relative to the data set's folder.

    images, masks: paths with `{id}`; empty for scenes that are rendered. ids: a file with one id a line; None
    for every image that exists (an id may then hold folders: "frankfurt/frankfurt_000000"). size: how many images
    the published split has.
    """

    images: str = ""
    masks: str = ""
    ids: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class DatasetSpec:
    """One data set: the meaning of its masks, and its layout on the disk.

    Class k has the name `classes[k]`, is looked for with the words `prompts[k]`, is drawn in `palette[k]`
    (RGB, 0..255) and has the number `label_ids[k]` in mask files.
    void_ids: numbers in mask files that are not counted. background: index of the class of what no other
    class names; None without one. unseen: indices hidden in the zero-shot setting, empty without one.
    resize: the papers' rule at test time. folder: where the files are below the user's root. splits: a split
    may be several lists in a row. default_split: the one to evaluate. source: what the user has to fetch.
    fix: what to do if a mask is missing, for messages. scenes: if images are rendered, not read, how.
    """

    name: str
    classes: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    palette: tuple[Color, ...]
    label_ids: tuple[int, ...]
    void_ids: tuple[int, ...] = (255,)
    background: int | None = None
    unseen: tuple[int, ...] = ()
    resize: ResizeRule = _USUAL_RESIZE
    folder: str = ""
    splits: Mapping[str, tuple[Split, ...]] = field(default_factory=dict)
    default_split: str = "val"
    source: str = ""
    fix: str = "add it, or remove the image"
    scenes: SceneRecipe | None = None

    def __post_init__(self) -> None:
        assert len(self.classes) == len(self.prompts) == len(self.palette) == len(self.label_ids)
        assert not set(self.label_ids) & set(self.void_ids)

    @property
    def seen(self) -> tuple[int, ...]:
        """Indices of the classes that are not unseen, the background among them."""
        return tuple(k for k in range(len(self.classes)) if k not in self.unseen)

    @property
    def ignore_index(self) -> int:
        """What pixels that are not counted become in a mask of class indices."""
        return ignore_index(len(self.classes))


def colors(count: int) -> tuple[Color, ...]:
    """The first `count` colors of PASCAL VOC, black first, for classes that come without any."""

    def channel(index: int, shift: int) -> int:
        return sum((index >> (3 * bit + shift) & 1) << (7 - bit) for bit in range(8))

    return tuple((channel(k, 0), channel(k, 1), channel(k, 2)) for k in range(count))


SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")  # no JPEG: it would invent ids
LOOKED_AT = 32
_WHOLE_NUMBERS = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L"}


class MaskSource(Protocol):
    """Where the ids of one image come from; `str()` names it in messages."""

    def read(self, size: tuple[int, int]) -> NDArray[Any]:
        """Ids as stored, (H, W) integer; size: that of the image, (H, W).

        Raises UserError, or FileNotFoundError if there is none.
        """


@dataclass(frozen=True)
class MaskFile:
    """A mask in a file of its own."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def read(self, size: tuple[int, int]) -> NDArray[Any]:
        """See `read_ids`."""
        return read_ids(self.path)


def read_ids(path: Path) -> NDArray[Any]:
    """Ids of a gray, indexed or 16-bit mask file, (H, W) integer, upright by its own EXIF orientation.

    Raises UserError if it cannot be read or holds colors; FileNotFoundError if it does not exist.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise UserError(f"cannot read mask {path} ({reason}): replace the file") from None
    if image.format == "JPEG":
        raise UserError(f"mask {path} is a JPEG, which blurs ids: save masks as PNG")
    if image.mode not in _WHOLE_NUMBERS:
        raise UserError(
            f"mask {path} holds colors ({image.mode}), not one id per pixel: save it as gray or indexed PNG"
        )
    ids = upright(np.asarray(image), image)
    return ids.astype(np.uint8) if ids.dtype == bool else ids


def refuse_binary(masks: Sequence[Path]) -> None:
    """UserError if masks hold 0 and 255 only, where 255 is not counted: whatever is drawn would be ignored.

    Looks at no more than `LOOKED_AT` masks, spread evenly, and at none after the first with another id.
    """
    found: set[int] = set()
    spread = np.unique(np.linspace(0, len(masks) - 1, min(len(masks), LOOKED_AT)).astype(int))
    looked = [masks[k] for k in spread if masks[k].is_file()]
    for path in looked:
        try:
            found |= set(np.unique(read_ids(path)).tolist())
        except UserError:
            continue  # told when it is used
        if found - {0, 255}:
            return
    if 255 in found:
        raise UserError(
            f"the masks hold 0 and 255 only ({len(looked)} looked at, {looked[0].name} first) and 255 is ignored, so "
            'nothing drawn would count: write "classes": {"0": ..., "255": ...} and "ignore": [] in data.json'
        )


def to_classes(
    ids: NDArray[Any], label_ids: Sequence[int], void_ids: Sequence[int], source: object
) -> NDArray[Any]:
    """Class indices of stored ids.

    label_ids[k] is the stored id of class k; void_ids are not counted.
    Returns (H, W), uint8 with 255 = ignore, or int32 with 65535 = ignore for more than 255 classes.
    Raises UserError naming `source` and the id if an id is neither.
    """
    ignored = ignore_index(len(label_ids))
    table = np.full(max(*label_ids, *void_ids, 255) + 2, -1, np.int32)  # its last entry stands for all beyond
    table[list(void_ids)] = ignored
    table[list(label_ids)] = np.arange(len(label_ids))
    inside = ids if ids.dtype == np.uint8 else np.where((ids < 0) | (ids >= len(table)), len(table) - 1, ids)
    mask = table[inside]
    if mask.min(initial=0) < 0:
        wrong = int(ids[mask < 0][0])
        raise UserError(
            f"mask {source} has id {wrong}, which is not declared: "
            "declare it as a class or as ignored, or repair the mask"
        )
    return mask.astype(np.uint8) if ignored == 255 else mask


@dataclass(frozen=True)
class Sample:
    """One labeled image.

    image: (H, W, 3) uint8 RGB. mask: (H, W) class indices with the data set's `ignore_index` where nothing is
    counted, uint8 (int32 with more than 255 classes).
    """

    image_id: str
    image: NDArray[Any]
    mask: NDArray[Any]


class SampleSource(Protocol):
    """Where one labeled image comes from; nothing is read yet."""

    @property
    def image_id(self) -> str:
        """What the image is called, unique in its split."""

    @property
    def files(self) -> tuple[Path, ...]:
        """What has to be on the disk."""

    def read(self, spec: DatasetSpec) -> Sample:
        """The image, and its mask in class indices of `spec`; UserError if they cannot be used."""


@dataclass(frozen=True)
class Entry:
    """A labeled image in files."""

    image_id: str
    image: Path
    mask: MaskSource

    @property
    def files(self) -> tuple[Path, ...]:
        """The image, and the mask's file if it has one of its own."""
        return (self.image, self.mask.path) if isinstance(self.mask, MaskFile) else (self.image,)

    def read(self, spec: DatasetSpec) -> Sample:
        """Read one image and its mask.

        Raises UserError, naming the file, if either cannot be read, their sizes differ, or the mask has an id
        that is not declared.
        """
        image = read_image(self.image)
        mask = self._classes(spec, (image.shape[0], image.shape[1]))
        if image.shape[:2] != mask.shape:
            sizes = [f"{array.shape[1]}x{array.shape[0]}" for array in (mask, image)]
            raise UserError(
                f"mask {self.mask} is {sizes[0]} but its image {self.image} is {sizes[1]} "
                "(width x height): give both the same size"
            )
        return Sample(self.image_id, image, mask)

    def _classes(self, spec: DatasetSpec, size: tuple[int, int]) -> NDArray[Any]:
        try:
            ids = self.mask.read(size)
        except FileNotFoundError:
            raise UserError(f"no mask {self.mask} for image {self.image_id}: {spec.fix}") from None
        return to_classes(ids, spec.label_ids, spec.void_ids, self.mask)


class SegmentationDataset:
    """A split: a sequence of `Sample`s that are read when asked for."""

    def __init__(self, spec: DatasetSpec, split: str, entries: Sequence[SampleSource]) -> None:
        """Raises UserError if there is no entry."""
        if not entries:
            raise UserError(
                f"split {split} of {spec.name} has no images: add images, or choose another split"
            )
        self.spec = spec
        self.split = split
        self.entries: tuple[SampleSource, ...] = tuple(entries)

    @classmethod
    def without_images(cls, spec: DatasetSpec, split: str) -> Self:
        """The words of a data set whose images are not at hand."""
        made = cls.__new__(cls)
        made.spec, made.split, made.entries = spec, split, ()
        return made

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """Read one image and its mask; raises UserError if they cannot be used."""
        return self.entries[index].read(self.spec)
