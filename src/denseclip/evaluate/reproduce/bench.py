"""Running the rows of a table, each once."""

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import denseclip
from denseclip.clip import Clip, load_clip
from denseclip.clip.device import pick_device, pick_precision
from denseclip.data.datasets import Sample, SegmentationDataset
from denseclip.data.opening import open_dataset
from denseclip.evaluate.presets import protocol_settings
from denseclip.evaluate.protocol import Corruption, Protocol
from denseclip.evaluate.reproduce.grid import Row
from denseclip.evaluate.result import Result
from denseclip.evaluate.robustness import corrupted
from denseclip.evaluate.runner import evaluate
from denseclip.segment.dataset_words import set_dataset_classes
from denseclip.segment.load import make_settings
from denseclip.segment.segmenter import Segmenter
from denseclip.text import EmbeddingCache

REMEMBERED = 400  # a data set of no more images is kept in memory
_DECISIVE = (  # the code that figures depend on
    *(f"{package}/**/*.py" for package in ("clip", "text", "segment", "data", "nets")),
    *(f"evaluate/{module}.py" for module in ("metrics", "presets", "runner")),
    *("assets/*.json", "assets/*.gz", "assets/stickers/*"),
)


class Bench:
    """Models, data sets and counts of the rows of a table; counts are kept in `folder`, by protocol.

    by_code: whether a count is lost when the code changes that made it, as is right where counting is quick.
    """

    def __init__(
        self,
        protocol: str,
        folder: Path,
        *,
        root: Path | None = None,
        images: int | None = None,
        fresh: bool = False,
        device: str = "auto",
        precision: str = "fp32",
        by_code: bool = True,
    ) -> None:
        self.protocol, self.folder, self.root = protocol, folder, root
        self.images, self.fresh, self.by_code = images, fresh, by_code
        self.device = pick_device(device)
        self.precision = pick_precision(precision, self.device)
        self._clip: tuple[str, Clip] | None = None
        self._data: dict[str, SegmentationDataset] = {}

    def run(self, row: Row, progress: Callable[[int, int], None] | None = None) -> Result:
        """The counts of a row: those kept under the same protocol and code, or made now.

        An interrupted row continues. Raises UserError for whatever cannot be used.
        """
        dataset = self.dataset(row.data)
        return self.count(self._segmenter(row, dataset), dataset, row.method.corruption, progress)

    def count(
        self,
        segmenter: Segmenter,
        dataset: SegmentationDataset,
        corruption: Corruption | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Result:
        """The counts of a model on a data set of `dataset`; see `run`."""
        images = self._count(dataset)
        state = self.folder / f"{self._key(Protocol.of(segmenter, dataset, images, corruption))}.pt"
        if self.fresh:
            state.unlink(missing_ok=True)
        return evaluate(
            segmenter,
            dataset,
            change=corrupted(*corruption) if corruption else None,
            corruption=corruption,
            state=state,
            limit=images,
            progress=progress,
        )

    def dataset(self, name: str) -> SegmentationDataset:
        """A data set by name, its samples kept if they are few."""
        if name not in self._data:
            dataset = open_dataset(name, self.root)
            few = self._count(dataset) <= REMEMBERED
            self._data[name] = Remembered(dataset) if few else dataset
        return self._data[name]

    def _count(self, dataset: SegmentationDataset) -> int:
        return len(dataset) if self.images is None else min(self.images, len(dataset))

    def _key(self, protocol: Protocol) -> str:
        content: dict[str, Any] = {
            **protocol.to_dict(),
            "machine": "",
            "code": code_digest() if self.by_code else "",
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]

    def _segmenter(self, row: Row, dataset: SegmentationDataset) -> Segmenter:
        if self._clip is None or self._clip[0] != row.source:
            self._clip = None  # before the next one takes its memory
            self._clip = (
                row.source,
                load_clip(row.source, device=self.device).folded().to(dtype=self.precision.dtype),
            )
        settings = make_settings(**protocol_settings(self.protocol, dataset.spec, **row.method.settings))
        segmenter = Segmenter(
            self._clip[1], settings=settings, cache=EmbeddingCache(), precision=self.precision
        )
        set_dataset_classes(segmenter, dataset.spec)
        return segmenter


class Remembered(SegmentationDataset):
    """A data set whose samples are read, or rendered, once for all rows."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        super().__init__(dataset.spec, dataset.split, dataset.entries)
        self._samples: dict[int, Sample] = {}

    def __getitem__(self, index: int) -> Sample:
        """See `SegmentationDataset`."""
        if index not in self._samples:
            self._samples[index] = super().__getitem__(index)
        return self._samples[index]


@cache
def code_digest() -> str:
    """A hash over the code and assets that figures depend on, so that no count outlives the code that made it."""
    home = Path(denseclip.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _DECISIVE for path in home.glob(pattern)):
        digest.update(path.relative_to(home).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()
