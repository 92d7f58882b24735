"""The answer for one picture: which word at every pixel."""

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from denseclip import outputs
from denseclip.data.coco import box_of
from denseclip.data.instances import encode, need_pycocotools
from denseclip.errors import UserError, need
from denseclip.io import atomic_path, write_text
from denseclip.segment import paint
from denseclip.segment.decode import probabilities
from denseclip.segment.paint import background_of, class_colors
from denseclip.segment.regions import Instance, find_instances
from denseclip.text import BACKGROUND


@dataclass(frozen=True)
class Segmentation:
    """Masks and scores of a picture of H x W pixels under K classes.

    mask: (H, W) uint8 (int32 from 256 classes on), index into `classes`; `void` where nothing was predicted.
    confidence: (H, W) float32 or None: soft-max probability of the winner (its score under key smoothing).
    scores: (K, h, w) float32 before decoding, on the network's coarse map (an eighth of the picture if several
    network inputs were averaged); a background that is only a threshold has no scores.
    image: (H, W, 3) uint8 RGB, what was segmented.
    """

    mask: NDArray[np.integer]
    classes: tuple[str, ...]
    scores: Tensor
    image: NDArray[np.uint8]
    confidence: NDArray[np.float32] | None
    scored: tuple[str, ...]
    heat_of: Callable[[int], NDArray[np.float32]]
    has_background: bool = False
    void: int | None = None
    temperature: float | None = (
        None  # of the soft-max that makes probabilities of scores; None: scores are shares
    )
    bias: float | None = None  # of a sigmoid in its place

    def __getstate__(self) -> dict[str, Any]:
        """Heat maps at full size need the model, which does not travel with a result."""
        return {**vars(self), "heat_of": _no_heat}

    @property
    def palette(self) -> NDArray[np.uint8]:
        """(K, 3) uint8: the color of each class."""
        return class_colors(self.classes)

    @cached_property
    def areas(self) -> dict[str, int]:
        """Pixels of each class that occurs, the largest first."""
        ids, counts = np.unique(self.mask, return_counts=True)
        pairs = [(self.classes[i], int(n)) for i, n in zip(ids, counts, strict=True) if i < len(self.classes)]
        return dict(sorted(pairs, key=lambda pair: -pair[1]))

    @property
    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """(H, W) bool for each class that occurs, the largest first."""
        return {name: self.mask == self.classes.index(name) for name in self.areas}

    def probabilities(self) -> Tensor:
        """(K, H, W) float32 over the classes that are `scored`, at every pixel; K H W numbers are held."""
        full = F.interpolate(self.scores[None].float(), self.mask.shape, mode="bilinear")[0]  # (K, H, W)
        return probabilities(full, self.temperature, self.bias)

    def instances(self, *, min_area: int = 1, fill_holes: bool = False) -> list[Instance]:
        """Connected regions of one class with area, box and score, the largest first; neither background nor void.

        min_area: pixels that a region must have. fill_holes: what it encloses is its own. Raises UserError for a
        `min_area` below 1.
        """
        none = [0] if self.has_background else []
        none += [] if self.void is None else [self.void]

        def share(label: int) -> NDArray[np.floating]:
            if self.confidence is not None:
                return self.confidence
            return self.probability(self.classes[label])

        return find_instances(
            self.mask, self.classes, share, leave_out=tuple(none), min_area=min_area, fill_holes=fill_holes
        )

    def topk(self, k: int = 3) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k likeliest of the `scored` classes at every pixel: their indices and probabilities, (k, H, W)."""
        best = self.probabilities().topk(min(k, len(self.scored)), dim=0)
        return best.indices.cpu().numpy(), best.values.cpu().numpy()

    def to_coco(self, file_name: str = "picture.png", image_id: int = 1) -> dict[str, Any]:
        """A COCO file's content: one annotation, run lengths, for each class that occurs but the background.

        Categories are numbered by `annotation_numbers`, as `denseclip label` does. Raises UserError without
        pycocotools.
        """
        need_pycocotools()
        numbers, (height, width) = annotation_numbers(self.classes), self.mask.shape
        annotations: list[dict[str, Any]] = []
        for name, mask in self.masks.items():
            number = int(numbers[self.classes.index(name)])
            if number:
                runs = encode(mask)
                segmentation = {"size": [height, width], "counts": runs["counts"].decode("ascii")}
                annotation: dict[str, Any] = {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": number,
                }
                annotation |= {"segmentation": segmentation, "area": self.areas[name]}
                annotations.append(annotation | {"bbox": list(box_of(runs)), "iscrowd": 0})
        return {
            "images": [{"id": image_id, "file_name": file_name, "height": height, "width": width}],
            "categories": [
                {"id": int(number), "name": name, "supercategory": ""}
                for number, name in zip(numbers, self.classes, strict=True)
                if number
            ],
            "annotations": annotations,
        }

    def to_supervision(self) -> Any:  # noqa: ANN401
        """`supervision.Detections`, one for each class that occurs; class ids are those of the mask."""
        need("supervision", "to_supervision")
        import supervision

        masks = np.stack(list(self.masks.values()))
        ids = np.array([self.classes.index(name) for name in self.areas])
        boxes = supervision.mask_to_xyxy(masks)
        return supervision.Detections(
            boxes, masks, class_id=ids, data={"class_name": np.array(list(self.areas))}
        )

    def _repr_png_(self) -> bytes:
        """The overlay, for notebooks."""
        return _png(self.overlay())

    def _repr_html_(self) -> str:
        """The overlay beside its legend, for notebooks; rows can be selected and copied."""
        picture = base64.b64encode(_png(self.overlay(legend=False))).decode("ascii")
        rows = "".join(
            f'<tr><td style="background:#{bytes(entry.color).hex()};width:1.2em"></td>'
            f'<td style="text-align:left">{escape(entry.name)}</td><td>{paint.percent(entry.share or 0)}</td></tr>'
            for entry in self._legend()
        )
        alt = escape(f"areas of {', '.join(self.areas) or 'nothing'}")
        return (
            '<div style="display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start">'
            f'<img alt="{alt}" style="max-width:min(100%,40em)" src="data:image/png;base64,{picture}">'
            f"<table><thead><tr><th></th><th>class</th><th>area</th></tr></thead><tbody>{rows}</tbody></table></div>"
        )

    def plot(self, ax: Any = None, *, legend: bool = True) -> Any:  # noqa: ANN401
        """Draw the overlay into matplotlib axes, new ones unless given, with a legend by area; returns the axes.

        Raises UserError without matplotlib.
        """
        need("matplotlib", "result.plot")
        from matplotlib import pyplot
        from matplotlib.patches import Patch

        if ax is None:
            _, ax = pyplot.subplots(figsize=(8, 5), layout="constrained")
        ax.imshow(self._painted())
        ax.set_axis_off()
        if legend:
            patches = [
                Patch(
                    facecolor=f"#{bytes(entry.color).hex()}",
                    edgecolor="gray",
                    label=f"{entry.name.replace('$', chr(92) + '$')} {paint.percent(entry.share or 0)}",
                )
                for entry in self._legend()[: paint.NAMED]
            ]
            ax.legend(handles=patches, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        return ax

    def heatmap(self, name: str) -> NDArray[np.float32]:
        """The score of one class at every pixel, (H, W) float32; UserError if the class has none."""
        return self.heat_of(self._scored(name))

    def probability(self, name: str) -> NDArray[np.float32]:
        """The probability of one `scored` class at every pixel, (H, W) float32 in 0..1.

        The soft-max is taken on the coarse map, so memory does not grow with the classes (compare `probabilities`).
        """
        one = self._shares[self._scored(name)][None, None]  # (1, 1, h, w)
        return F.interpolate(one, self.mask.shape, mode="bilinear")[0, 0].numpy()

    @property
    def peaks(self) -> dict[str, float]:
        """The highest probability that each `scored` class has anywhere: how nearly an absent one was found."""
        return dict(zip(self.scored, self._shares.amax((1, 2)).tolist(), strict=True))

    @cached_property
    def _shares(self) -> Tensor:
        """Probabilities (K, h, w) float32 on the coarse map."""
        return probabilities(self.scores.float().cpu(), self.temperature, self.bias)

    def _scored(self, name: str) -> int:
        if name not in self.scored:
            raise UserError(f"no scores for {name!r}; choose one of {', '.join(self.scored[:20])}")
        return self.scored.index(name)

    def heat_overlay(self, name: str, *, contrast: bool = False) -> Image.Image:
        """The picture under the heat map of one class, with its scale.

        The colors stand for probabilities from 0 to 1; `contrast`: for scores, from the lowest to the highest of
        this picture, which show where a class that wins nowhere was likeliest.
        """
        if not contrast:
            painted = paint.heat(self.image, self.probability(name))
            return paint.with_scale(
                painted, f"{name}: probability among {len(self.scored)} classes", "0", "1"
            )
        scores = self.heatmap(name)
        low, high = float(scores.min()), float(scores.max())
        painted = paint.heat(self.image, (scores - low) / max(high - low, 1e-12))
        title = f"{name}: score, contrast stretched to this picture's lowest and highest"
        return paint.with_scale(painted, title, f"{low:.3f}", f"{high:.3f}")

    def smaller(self, side: int) -> "Segmentation":
        """The same for a picture of at most `side` pixels across and down, to be looked at; itself if it is that."""
        height, width = self.mask.shape
        scale = side / max(height, width)
        if scale >= 1:
            return self
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = np.asarray(Image.fromarray(self.image).resize(size, Image.Resampling.BOX))
        rows = (np.arange(size[1]) + 0.5) * height / size[1]
        columns = (np.arange(size[0]) + 0.5) * width / size[0]
        mask = self.mask[rows.astype(int)[:, None], columns.astype(int)[None]]
        return replace(self, image=image, mask=mask, confidence=None, heat_of=_no_heat)

    def overlay(
        self, *, opacity: float = paint.OPACITY, legend: bool = True, names: bool | None = None
    ) -> Image.Image:
        """The picture under its mask; the legend names the classes that occur, by area, as their tints look.

        names: written into the areas; None: where more than 32 classes occur.
        """
        painted = self._painted(opacity)
        shown = self._legend(opacity)
        written = paint.with_names(painted, self.name_places(always=names)) if names is not False else painted
        return paint.with_legend(written, shown) if legend else Image.fromarray(written)

    def name_places(self, *, always: bool | None = None) -> list[paint.NamePlace]:
        """Where the names of classes stand in their areas, the largest first; up to 32 classes only if `always`."""
        clear = background_of(self.classes)
        found = {self.classes.index(name): name for name in self.areas}
        found.pop(-1 if clear is None else clear, None)
        return paint.name_places(self.mask, found) if always or len(found) > paint.NAMED else []

    def _painted(self, opacity: float = paint.OPACITY) -> NDArray[np.uint8]:
        """(H, W, 3) uint8."""
        clear = background_of(self.classes)
        return paint.overlay(self.image, self.mask, self.palette, opacity=opacity, clear=clear)

    def _legend(self, opacity: float = paint.OPACITY) -> list[paint.Entry]:
        """The classes that occur, without the background, the largest first, in the colors of their areas."""
        colors = paint.swatches(self.image, self.mask, self.palette, opacity=opacity)
        clear = background_of(self.classes)
        ids = {name: self.classes.index(name) for name in self.areas}
        return [
            paint.Entry(name, colors[k].tolist(), self.areas[name] / self.mask.size)
            for name, k in ids.items()
            if k != clear
        ]

    def indexed(self) -> Image.Image:
        """The mask as a picture whose pixel values are class ids, with a palette (16-bit gray above 256 classes)."""
        return paint.indexed(self.mask, self.palette, self.void)

    def save(self, folder: Path | str, stem: str = "picture", *, heatmaps: bool = False) -> list[Path]:
        """Write STEM.png (mask), STEM-overlay.png, classes.json and, if asked for, STEM-heat-CLASS.png.

        classes.json is {id: name} of the words that were asked for; under a background rule they begin at 1, and 0 is
        what none of them fits.
        Returns the paths. Files of ours of these names are replaced, each atomically; UserError for any other.
        """
        folder = Path(folder)
        outputs.mark(folder, "save")
        pictures = {f"{stem}.png": self.indexed(), f"{stem}-overlay.png": self.overlay()}
        if heatmaps:
            for name, suffix in zip(self.scored, heat_suffixes(self.scored), strict=True):
                pictures[stem + suffix] = self.heat_overlay(name)
        written = []
        for name, picture in pictures.items():
            with atomic_path(folder / name) as temporary:
                picture.save(temporary)
            written.append(folder / name)
        names = {k: name for k, name in enumerate(self.classes) if k or not self.has_background}
        write_text(folder / "classes.json", json.dumps(names, indent=1) + "\n")
        return [*written, folder / "classes.json"]


def annotation_numbers(classes: Sequence[str]) -> NDArray[np.int64]:
    """By mask value, what annotation files call a class: 0 the one called "background", the others from 1 on."""
    names = [name.strip().lower() for name in classes]
    background = names.index(BACKGROUND) if BACKGROUND in names else None
    rising = np.arange(len(names)) != background
    return np.where(rising, np.cumsum(rising), 0)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _no_heat(index: int) -> NDArray[np.float32]:
    raise UserError("heat maps at full size are not part of a stored result: segment the picture again")


def heat_suffixes(names: Sequence[str]) -> list[str]:
    """How the files of the heat maps of these classes end; no two alike, not even of C++ and C#."""
    found: list[str] = []
    for name in names:
        word, number = file_word(name), 1
        while (suffix := f"-heat-{word}.png" if number == 1 else f"-heat-{word}-{number}.png") in found:
            number += 1
        found.append(suffix)
    return found


def file_word(name: str) -> str:
    """A class name as part of a file name."""
    kept = "".join(c if c.isalnum() else "-" for c in name.strip().lower())
    return "-".join(part for part in kept.split("-") if part)[:60] or "class"
