"""What is done to one picture, from its bytes to its files and its record."""

from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from denseclip.errors import UserError
from denseclip.label.formats import make_writers
from denseclip.label.formats.base import Target, below, save
from denseclip.label.journal import SKIPPED, Record
from denseclip.label.labelled import Labeled, Labeler
from denseclip.label.sources import Item, printable
from denseclip.label.summary import measure, tile, write_overlay
from denseclip.segment.engine import Engine

FULL = 65535  # of a 16-bit confidence map


class Task(NamedTuple):
    """A picture to label and its number in the job."""

    position: int
    item: Item

    def __str__(self) -> str:
        return str(self.item)


class Outcome(NamedTuple):
    """What became of a task."""

    position: int
    record: Record


def outcome(task: Task, record: Record | UserError) -> Outcome:
    """The record with the picture's names, or with the reason why there is none."""
    if isinstance(record, UserError):
        record = {SKIPPED: printable(str(record))}
    return Outcome(task.position, {"name": task.item.name, "file": task.item.file, **record})


@dataclass(frozen=True)
class Plan:
    """What is written for each picture. sheet: positions that get a tile on the contact sheet."""

    target: Target
    formats: tuple[str, ...]
    overlays: bool
    sheet: frozenset[int]


class Stages:
    """The engine of a job, whose items are tasks and whose results are records."""

    def __init__(self, labeler: Labeler, plan: Plan) -> None:
        self.labeler, self.plan = labeler, plan
        encode = partial(labeler.encode, rules=plan.target.rules)
        self.writers = make_writers(plan.formats, plan.target)
        self.engine = Engine(lambda task: task.item.read(), encode, self._label, labeler.batch)

    def run(self, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
        """The outcomes, in order."""
        with closing(self.engine.run(tasks)) as results:
            yield from (outcome(*result) for result in results)

    def one(self, task: Task) -> Outcome:
        """The outcome of one task."""
        return outcome(task, self.engine.one(task))

    def _label(self, task: Task, encoded: Any) -> Record:  # noqa: ANN401
        target = self.plan.target
        picture = self.labeler.label(encoded, task.item, task.position, target.rules)
        payload = {writer.name: writer.write(picture) for writer in self.writers}
        if target.rules.confidence == "pixels":
            _save_confidence(picture, target)
        if self.plan.overlays:
            write_overlay(picture, target.out)
        record = {"height": picture.size[0], "width": picture.size[1], **measure(picture)}
        if task.position in self.plan.sheet:
            record["tile"] = tile(picture)
        return {**record, "payload": {name: value for name, value in payload.items() if value is not None}}


def _save_confidence(picture: Labeled, target: Target) -> None:
    from PIL import Image

    levels = np.rint(picture.confidence.clip(0, 1) * FULL).astype(np.uint16)
    save(
        Image.fromarray(levels), below(target.out / "confidence", picture.item.name, ".png"), compress_level=1
    )
