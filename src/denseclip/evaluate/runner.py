"""A model on a data set: read, segment, count."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from denseclip.data.datasets import Sample, SegmentationDataset
from denseclip.errors import UserError
from denseclip.evaluate.metrics import ConfusionMatrix
from denseclip.evaluate.protocol import Corruption, Protocol
from denseclip.evaluate.result import Result
from denseclip.evaluate.state import Tally
from denseclip.io import prefetch
from denseclip.segment.dataset_words import class_ids
from denseclip.segment.segmenter import Encoded, Segmenter

S = TypeVar("S")
T = TypeVar("T")
_Labelled = tuple[Encoded, np.ndarray]  # a picture and its mask in class indices
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

    Every image is run by itself, so that no figure depends on order or on what else is evaluated.
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
    """One evaluation at work: threads read ahead, this one encodes, another decodes and counts."""

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
        read, encode, count = _careful(self._read), _careful(self._encode), _careful(self._count)
        with (
            closing(prefetch(read, range(self.tally.done, total), workers=2, waiting=6)) as samples,
            closing(prefetch(count, map(encode, samples), workers=1, waiting=2)) as counted,
        ):
            for outcome in counted:
                if isinstance(outcome, UserError):
                    if not self.skip_bad:
                        raise outcome
                    self.tally.skipped.append(str(outcome))
                else:
                    self.tally.matrix.merge(outcome)
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

    def _encode(self, sample: Sample) -> _Labelled:
        return self.segmenter.encode(sample.image), sample.mask

    def _count(self, labelled: _Labelled) -> ConfusionMatrix:
        encoded, mask = labelled
        device, spec = self.segmenter.clip.device, self.dataset.spec
        predicted = torch.from_numpy(self.segmenter.segment(encoded).mask).to(device)  # (H, W)
        if self._lookup is not None:
            predicted = self._lookup[predicted.long()]
        counts = ConfusionMatrix(len(spec.classes), device, per_image=True)
        counts.update(predicted, torch.from_numpy(mask).to(device), spec.ignore_index)
        return counts


def _careful(stage: Callable[[S], T]) -> Callable[[S | UserError], T | UserError]:
    """The stage, with the user's error for a result where it or a stage before it fails."""

    def run(item: S | UserError) -> T | UserError:
        if isinstance(item, UserError):
            return item
        try:
            return stage(item)
        except UserError as error:
            return error

    return run
