"""What is done to one picture, from its bytes to its files and its record."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from denseclip.errors import UserError
from denseclip.label import sheet
from denseclip.label.formats import make_writers
from denseclip.label.formats.base import Target, below, save
from denseclip.label.items import Item, printable
from denseclip.label.journal import SKIPPED, Record
from denseclip.label.labelled import Labelled, Labeller
from denseclip.label.summary import measure
from denseclip.outputs import ForeignFileError

T = TypeVar("T")
FULL = 65535  # of a 16-bit confidence map


class Task(NamedTuple):
    """A picture to label and its number in the job."""

    position: int
    item: Item


class Outcome(NamedTuple):
    """What became of a task."""

    position: int
    record: Record


@dataclass(frozen=True)
class Plan:
    """What is written for each picture. sheet: positions that get a tile on the contact sheet."""

    target: Target
    formats: tuple[str, ...]
    overlays: bool
    sheet: frozenset[int]


class Stages:
    """The three stages of a picture; each hands a reason on where it, or a stage before it, cannot go on."""

    def __init__(self, labeller: Labeller, plan: Plan) -> None:
        self.labeller, self.plan = labeller, plan
        self.writers = make_writers(plan.formats, plan.target)

    def read(self, task: Task) -> tuple[Task, NDArray[np.uint8] | UserError]:
        """The picture, (H, W, 3) uint8 RGB."""
        return task, _attempt(task.item.read, task)

    def encode(self, given: tuple[Task, NDArray[np.uint8] | UserError]) -> tuple[Task, Any]:
        """Run the network; by itself, so that no label depends on its neighbours."""
        task, image = given
        if isinstance(image, UserError):
            return task, image
        return task, _attempt(lambda: self.labeller.encode(image), task)

    def label(self, given: tuple[Task, Any]) -> Outcome:
        """Make the labels and write the picture's files."""
        task, encoded = given
        record = (
            encoded if isinstance(encoded, UserError) else _attempt(lambda: self._label(task, encoded), task)
        )
        if isinstance(record, UserError):
            record = {SKIPPED: printable(str(record))}
        return Outcome(task.position, {"name": task.item.name, "file": task.item.file, **record})

    def all(self, task: Task) -> Outcome:
        """All stages, one after the other."""
        return self.label(self.encode(self.read(task)))

    def _label(self, task: Task, encoded: Any) -> Record:  # noqa: ANN401
        target = self.plan.target
        picture = self.labeller.label(encoded, task.item, task.position, target.rules)
        payload = {writer.name: writer.write(picture) for writer in self.writers}
        if target.rules.confidence == "pixels":
            _save_confidence(picture, target)
        if self.plan.overlays:
            sheet.write_overlay(picture, target.out)
        record = {"height": picture.size[0], "width": picture.size[1], **measure(picture)}
        if task.position in self.plan.sheet:
            record["tile"] = sheet.tile(picture)
        return {**record, "payload": {name: value for name, value in payload.items() if value is not None}}


def _save_confidence(picture: Labelled, target: Target) -> None:
    from PIL import Image

    levels = np.rint(picture.confidence.clip(0, 1) * FULL).astype(np.uint16)
    save(
        Image.fromarray(levels), below(target.out / "confidence", picture.item.name, ".png"), compress_level=1
    )


def _attempt(work: Callable[[], T], task: Task) -> T | UserError:
    """What the work gives, or why this picture cannot be labelled. Errors of writing are not the picture's."""
    try:
        return work()
    except ForeignFileError:
        raise
    except UserError as error:
        return error
    except MemoryError:
        pass
    except RuntimeError as error:  # torch's errors of memory have no class of their own on a CPU
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
    return UserError(
        f"picture {task.item} does not fit into memory; give a smaller --resize or, unless the model is a detector, "
        "--slide 512/341"
    )
