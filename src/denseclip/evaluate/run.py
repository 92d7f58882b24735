"""A model on a data set: read, segment, count."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from denseclip.data.datasets import Sample, SegmentationDataset
from denseclip.data.specs import DatasetSpec
from denseclip.errors import UserError
from denseclip.evaluate.metrics import ConfusionMatrix
from denseclip.evaluate.result import Corruption, Protocol, Result
from denseclip.io import atomic_path
from denseclip.loading import class_ids, load, set_dataset_classes
from denseclip.segment.engine import Engine, default_batch
from denseclip.segment.result import Segmentation
from denseclip.segment.segmenter import Segmenter

PROTOCOLS: dict[str, dict[str, Any]] = {
    "ours": {},  # whole pictures at the data set's size, CLIP's own arithmetic, 85 templates
    "official": {
        "compat": "official",
        "ks_norm": "positions",
    },  # as the papers' numbers were made (maskclip a.3)
    "slide": {"resize": "short:336", "slide": "224/112", "templates": "80"},  # SCLIP, ClearCLIP, NACLIP
}


def protocol_settings(protocol: str, spec: DatasetSpec, **changes: Any) -> dict[str, Any]:
    """Keywords of `make_settings` for a data set; `changes` go before what the protocol says.

    Unless something else is said: the papers' size for the data set, and for one with a background class the
    usual background words (not under "official": the published code looks for the word itself).
    Raises UserError for an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol {protocol!r} is unknown; choose one of {', '.join(PROTOCOLS)}")
    settings: dict[str, Any] = {"resize": spec.resize}
    if spec.background is not None and protocol != "official" and changes.get("threshold") is None:
        settings["background"] = "usual"
    return settings | PROTOCOLS[protocol] | changes


def segmenter_for(
    spec: DatasetSpec,
    model: str | Path = "tiny-rn",
    *,
    protocol: str = "ours",
    pretrained: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    cache: bool = True,
    **changes: Any,
) -> Segmenter:
    """A model with the words of a data set, under a named protocol.

    changes: keywords of `make_settings` (preset, refine, resize, ...) that differ from the protocol.
    Raises UserError for whatever cannot be used.
    """
    settings = protocol_settings(protocol, spec, **changes)
    segmenter = load(
        model, pretrained=pretrained, device=device, precision=precision, cache=cache, **settings
    )
    set_dataset_classes(segmenter, spec)
    return segmenter


@dataclass
class Tally:
    """What has been counted. done: images looked at, the skipped ones among them. seconds: of all runs."""

    matrix: ConfusionMatrix
    done: int = 0
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether every image is counted entirely or not at all; an interruption may fall between two lines."""
        images = self.matrix.per_image
        same_pixels = int(self.matrix.matrix.sum()) == int(images[..., 2].sum())
        return same_pixels and len(images) + len(self.skipped) == self.done

    def save(self, path: Path, protocol: Protocol) -> None:
        """Write everything, unless an image is half counted: then what was written before stays."""
        if not self.whole:
            return
        content = {
            "protocol": json.dumps(protocol.to_dict()),
            "counts": self.matrix.state_dict(),
            "done": self.done,
            "skipped": self.skipped,
            "seconds": self.seconds,
        }
        with atomic_path(path) as temporary:
            torch.save(content, temporary)

    def load(self, path: Path, protocol: Protocol) -> None:
        """Continue from a file; raises UserError if it cannot be read or belongs to another protocol."""
        remove = "remove it, or write the results elsewhere"
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            other = Protocol.from_dict(json.loads(content["protocol"]))
            counts, self.done = content["counts"], int(content["done"])
            self.skipped, self.seconds = list(content["skipped"]), float(content["seconds"])
        except Exception as error:  # torch raises whatever the damaged bytes lead to
            raise UserError(
                f"cannot continue from {path} ({type(error).__name__}, it is damaged): {remove}"
            ) from None
        different = protocol.differences(other)
        if different:
            raise UserError(
                f"{path} belongs to another evaluation (other {', '.join(different)[:120]}): {remove}"
            )
        self.matrix.load_state_dict(counts)


_Labelled = tuple[Callable[[], Segmentation], np.ndarray]  # what gives a result, and the true mask
Progress = Callable[[int, int], None]  # done, total
Change = Callable[[Sample], np.ndarray]
SAVE_SECONDS = 20.0  # the most that an interruption without warning can cost


def evaluate(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    *,
    change: Change | None = None,
    corruption: Corruption | None = None,
    state: Path | None = None,
    limit: int | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Segment every image of a data set and count pixels.

    segmenter: with the data set's words, see `set_dataset_classes`. change: the (H, W, 3) uint8 RGB picture to
    run in place of a sample's own; `corruption` names it in the protocol. state: a file in which an interrupted
    evaluation continues, to the same counts; it stays when all is done. limit: only the first images. skip_bad:
    list images that cannot be used and go on. progress: called with (done, total) images, first with those of an
    earlier run.

    On a CPU every image is run by itself, so that no figure depends on order or on what else is evaluated; a GPU
    runs images of one size together.
    Raises UserError for an image that cannot be used (unless skip_bad), if none can be used, and if `state`
    belongs to another evaluation.
    """
    assert (change is None) == (corruption is None), "a change needs its name in the protocol"
    assert limit is None or limit > 0
    total = len(dataset) if limit is None else min(limit, len(dataset))
    protocol = Protocol.of(segmenter, dataset, total, corruption)
    spec = dataset.spec
    tally = Tally(ConfusionMatrix(len(spec.classes), segmenter.clip.device, per_image=True))
    if state is not None and state.exists():
        tally.load(state, protocol)
        if tally.skipped and not skip_bad:
            raise UserError(
                f"{state} left out {len(tally.skipped)} bad images: skip them again, or remove it"
            )
    bench = _Bench(segmenter, dataset, change, tally, skip_bad)
    report = progress or _silent
    report(tally.done, total)
    try:
        for done in bench.run(total):
            report(done, total)
            if state is not None and bench.save_is_due():
                tally.save(state, protocol)
    finally:
        if state is not None:
            tally.save(state, protocol)
    if len(tally.skipped) == total:
        raise UserError(f"none of {total} images of {spec.name} can be used; the first: {tally.skipped[0]}")
    return Result(protocol, tally.matrix, spec.classes, spec.unseen, tally.skipped, tally.seconds)


def _silent(done: int, total: int) -> None:
    pass


class _Bench:
    """One evaluation at work."""

    def __init__(
        self,
        segmenter: Segmenter,
        dataset: SegmentationDataset,
        change: Change | None,
        tally: Tally,
        skip_bad: bool,
    ) -> None:
        self.segmenter, self.dataset, self.change = segmenter, dataset, change
        self.tally, self.skip_bad = tally, skip_bad
        ids = class_ids(segmenter, dataset.spec)
        self._lookup = (
            None if ids == list(range(len(ids))) else torch.tensor(ids, device=segmenter.clip.device)
        )
        self._saved = time.perf_counter()

    def run(self, total: int) -> Iterator[int]:
        """Count what is not counted yet; yields how many images are done, after each."""
        started, before = time.perf_counter(), self.tally.seconds
        batch = default_batch(self.segmenter.clip.device)
        engine = Engine(self._read, self._encode, self._count, batch, lambda sample: sample.image.shape)
        with closing(engine.run(range(self.tally.done, total))) as results:
            for _, counts in results:
                if isinstance(counts, UserError):
                    if not self.skip_bad:
                        raise counts
                    self.tally.skipped.append(str(counts))
                else:
                    self.tally.matrix.merge(counts)
                self.tally.done += 1
                self.tally.seconds = before + time.perf_counter() - started
                yield self.tally.done

    def save_is_due(self) -> bool:
        """Whether the counts have not been saved for a while; the time starts again if so."""
        now = time.perf_counter()
        due = now - self._saved > SAVE_SECONDS
        if due:
            self._saved = now
        return due

    def _read(self, index: int) -> Sample:
        sample = self.dataset[index]
        return sample if self.change is None else replace(sample, image=self.change(sample))

    def _encode(self, samples: list[Sample]) -> list[_Labelled]:
        begun = self.segmenter.begin([sample.image for sample in samples])
        return [(one, sample.mask) for one, sample in zip(begun, samples, strict=True)]

    def _count(self, index: int, labelled: _Labelled) -> ConfusionMatrix:
        del index
        arrive, mask = labelled
        device, spec = self.segmenter.clip.device, self.dataset.spec
        predicted = torch.from_numpy(arrive().mask).to(device)  # (H, W)
        if self._lookup is not None:
            predicted = self._lookup[predicted.long()]
        counts = ConfusionMatrix(len(spec.classes), device, per_image=True)
        counts.update(predicted, torch.from_numpy(mask).to(device), spec.ignore_index)
        return counts
