"""A model on corrupted pictures: every kind at every level (maskclip section g; Tables 4 and 5)."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from denseclip.data.corruptions import KINDS, LEVELS, Kind, corrupt, corruption_seed
from denseclip.data.datasets import Sample, SegmentationDataset
from denseclip.errors import UserError
from denseclip.evaluate.plots import draw_curves
from denseclip.evaluate.result import Corruption, Result, csv_text
from denseclip.evaluate.run import Change, evaluate
from denseclip.io import write_text
from denseclip.segment.segmenter import Segmenter

CellProgress = Callable[[str, int, int], None]
"""Name of the cell at work, pictures done and to do in the whole grid."""


def corrupted(kind: str, level: int) -> Change:
    """The change that corrupts a sample's picture, in the same way whoever does it and when."""

    def change(sample: Sample) -> np.ndarray:
        seed = corruption_seed(sample.image_id, cast(Kind, kind), level)
        return corrupt(sample.image, kind, level, seed=seed)

    return change


def cell_name(corruption: Corruption | None) -> str:
    """Such as "spatter 3", or "clean"."""
    return f"{corruption[0]} {corruption[1]}" if corruption else "clean"


@dataclass(frozen=True)
class Grid:
    """Results of a model on a data set by corruption; the key None is the clean one."""

    cells: Mapping[Corruption | None, Result]

    @property
    def kinds(self) -> list[str]:
        """Kinds of corruption in it."""
        return list(dict.fromkeys(key[0] for key in self.cells if key))

    @property
    def levels(self) -> list[int]:
        """Levels in it, rising."""
        return sorted({key[1] for key in self.cells if key})

    def miou(self, corruption: Corruption | None) -> float:
        """mIoU of a cell in percent."""
        return self.cells[corruption].summary()["mIoU"]

    def mean(self, level: int) -> float:
        """Mean mIoU over the kinds at a level, in percent."""
        return float(np.mean([self.miou((kind, level)) for kind in self.kinds]))

    def rows(self) -> list[dict[str, Any]]:
        """Figures of every cell in percent; kept: mIoU as a share of the clean one's."""
        clean = self.miou(None)
        rows = []
        for key, result in self.cells.items():
            kind, level = key or ("clean", 0)
            figures = result.summary()
            shown = {name: round(figures[name], 2) for name in ("mIoU", "pAcc", "mAcc")}
            kept = round(figures["mIoU"] / clean * 100, 2) if clean else None
            rows.append({"corruption": kind, "level": level, **shown, "kept": kept})
        return rows

    def to_json(self) -> str:
        """JSON with the protocol and all figures."""
        protocol = self.cells[None].protocol.describe()
        del protocol["corruption"]
        means = {str(level): round(self.mean(level), 2) for level in self.levels}
        content = {"protocol": protocol, "rows": self.rows(), "mean_over_kinds": means}
        return json.dumps(content, indent=1) + "\n"

    def to_csv(self) -> str:
        """CSV with one line a cell."""
        rows = self.rows()
        return csv_text(list(rows[0]), [list(row.values()) for row in rows])


def robustness(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    folder: Path,
    *,
    kinds: Sequence[str] = KINDS,
    levels: Sequence[int] = LEVELS,
    resume: bool = False,
    limit: int | None = None,
    skip_bad: bool = False,
    progress: CellProgress | None = None,
) -> Grid:
    """Evaluate a model clean and under every kind and level of corruption.

    segmenter: with the data set's words. folder: keeps the counts of every cell; with `resume` those that are
    there are used, and an interrupted cell continues. limit, skip_bad: see `evaluate`.
    Raises UserError for an unknown kind or level, if there are counts and `resume` is not set, if they belong to
    another protocol, and for images that cannot be used.
    """
    check_grid(kinds, levels)
    if not resume and any(folder.glob("*.pt")):
        raise UserError(
            f"{folder} has results already; add --resume to go on with them, or give another --out"
        )
    keys = [None, *((kind, level) for kind in kinds for level in sorted(levels))]
    images = len(dataset) if limit is None else min(limit, len(dataset))
    cells: dict[Corruption | None, Result] = {}
    for number, key in enumerate(keys):
        name = cell_name(key)
        cells[key] = evaluate(
            segmenter,
            dataset,
            change=corrupted(*key) if key else None,
            corruption=key,
            state=folder / f"{name.replace(' ', '-')}.pt",
            limit=limit,
            skip_bad=skip_bad,
            progress=_shifted(progress, name, number * images, len(keys) * images),
        )
    return Grid(cells)


def write_grid(grid: Grid, folder: Path) -> None:
    """Write robustness.json, robustness.csv and robustness.png (curves)."""
    protocol = grid.cells[None].protocol
    curve = {key: grid.miou(key) for key in grid.cells}
    draw_curves(folder / "robustness.png", f"{protocol.model} on {protocol.data}", {protocol.model: curve})
    write_text(folder / "robustness.json", grid.to_json())
    write_text(folder / "robustness.csv", grid.to_csv())


def check_grid(kinds: Sequence[str], levels: Sequence[int]) -> None:
    """Raise UserError unless there are kinds and levels, all known and each once."""
    for what, given, known in (("kind", kinds, KINDS), ("level", levels, LEVELS)):
        if not given or len(set(given)) < len(given) or not set(given) <= set(known):
            raise UserError(
                f"corruption {what}s {', '.join(map(str, given)) or '(none)'} are not usable; choose some of "
                f"{', '.join(map(str, known))}, each once"
            )


def _shifted(
    progress: CellProgress | None, name: str, before: int, total: int
) -> Callable[[int, int], None] | None:
    """Progress within one cell as progress of the grid."""
    return None if progress is None else lambda done, _: progress(name, before + done, total)
