"""The answer for one picture: what is where."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from denseclip import outputs
from denseclip.data.things import Runs, decode
from denseclip.io import atomic_path
from denseclip.nets.detection.draw import draw_things


@dataclass(frozen=True)
class Detected:
    """N things in a picture (H, W, 3) uint8 RGB, best first.

    boxes: (N, 4) float32, x0, y0, x1, y1 in pixels. scores: (N,) float32 in 0..1. labels: (N,) indices of `classes`.
    runs: their masks as COCO's run lengths, None of a detector without masks.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    runs: tuple[Runs, ...] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> "Detected":
        """Those with at least this score."""
        kept = np.flatnonzero(self.scores >= threshold)
        runs = None if self.runs is None else tuple(self.runs[i] for i in kept)
        return Detected(
            self.image, self.boxes[kept], self.scores[kept], self.labels[kept], self.classes, runs
        )

    @property
    def names(self) -> list[str]:
        """The class of each."""
        return [self.classes[k] for k in self.labels]

    def mask(self, index: int) -> NDArray[np.bool_]:
        """(H, W) of one thing; only of a detector with masks."""
        assert self.runs is not None
        return decode(self.runs[index]).astype(bool)

    def overlay(self) -> Image.Image:
        """The picture with boxes, names, scores and masks."""
        labels, scores = self.labels.tolist(), self.scores.tolist()
        return Image.fromarray(
            draw_things(self.image, self.boxes, labels, self.classes, scores=scores, masks=self.runs)
        )

    def save(self, folder: Path | str, stem: str = "picture") -> Path:
        """Write STEM-detected.png, atomically; returns its path. UserError if there is a file that is not ours."""
        outputs.mark(Path(folder), "save")
        path = Path(folder) / f"{stem}-detected.png"
        with atomic_path(path) as temporary:
            self.overlay().save(temporary)
        return path

    def to_coco(self, image_id: int, categories: Sequence[int]) -> list[dict[str, Any]]:
        """Entries of a COCO results file; categories: the id of each class."""
        found = []
        for i, (x0, y0, x1, y1) in enumerate(self.boxes.astype(float).tolist()):
            entry = {
                "image_id": image_id,
                "category_id": categories[int(self.labels[i])],
                "bbox": [round(side, 2) for side in (x0, y0, x1 - x0, y1 - y0)],
                "score": round(float(self.scores[i]), 5),
            }
            if self.runs is not None:
                counts = self.runs[i]["counts"]
                text = counts.decode("ascii") if isinstance(counts, bytes) else counts
                entry["segmentation"] = {"size": list(self.runs[i]["size"]), "counts": text}
            found.append(entry)
        return found
