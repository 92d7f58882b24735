"""What a training leaves to look at: scalars for TensorBoard, panels, and the list of skipped images."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from denseclip.io import atomic_path, write_text
from denseclip.train.samples import AnyBatch

if TYPE_CHECKING:
    from denseclip.train.loop import Told

SCALARS_EVERY = 10  # steps
SKIPPED = "skipped.txt"


class Journal:
    """Writes into the run's folder; scalars of steps after `step`, from an interrupted run, are hidden."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.folder = folder
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        path = folder / SKIPPED
        self.skipped = path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._board.close()

    def note(self, told: "Told", parts: Iterable[AnyBatch]) -> None:
        """The values of a step, and images that were skipped in it for the first time."""
        if told.step % SCALARS_EVERY == 0 or told.step == 1:
            self.scalars({**told.values, "images_per_second": told.images_per_second}, told.step)
        new = dict.fromkeys(line for batch in parts for line in batch.skipped if line not in self.skipped)
        if new:
            self.skipped += new
            write_text(self.folder / SKIPPED, "\n".join(self.skipped) + "\n")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars for TensorBoard."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def panel(self, picture: NDArray[np.uint8], step: int) -> None:
        """A panel as a PNG and for TensorBoard; picture: (H, W, 3) uint8 RGB."""
        with atomic_path(self.folder / "panels" / f"{step:06d}.png") as temporary:
            Image.fromarray(picture).save(temporary)
        self._board.add_image("panel", picture, step, dataformats="HWC")
