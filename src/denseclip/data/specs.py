"""What a data set is: its classes, where its files lie, and what labels mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from denseclip.data.stickers import SceneRecipe
from denseclip.data.transforms import ResizeRule

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
