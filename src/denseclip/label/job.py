"""A labeling job: a folder, a journal, and how it goes on where it was stopped."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from denseclip.errors import UserError
from denseclip.label.engines import Engine, Plan, Task
from denseclip.label.formats import make_writers
from denseclip.label.formats.base import Entry, Target
from denseclip.label.journal import SKIPPED, Journal
from denseclip.label.labelled import Labeler, Rules
from denseclip.label.sources import Item
from denseclip.label.summary import Summary, write_sheet, write_summary
from denseclip.outputs import HOME, OutputFolder
from denseclip.segment.paint import spread

OTHERS = ("contact-sheet.jpg", "summary.json", "pictures.csv")
SYNC_SECONDS = 5.0

Progress = Callable[[int, int, int], None]  # labeled or skipped, of these skipped, total


@dataclass(frozen=True)
class JobOptions:
    """What a job writes. link_images, image_prefix: see `Target`."""

    formats: tuple[str, ...] = ("png",)
    rules: Rules = Rules()
    overlays: bool = False
    link_images: bool = True
    image_prefix: str = "/data/local-files/?d="


def run_job(
    labeler: Labeler,
    items: Sequence[Item],
    out: Path,
    options: JobOptions,
    engine: Engine,
    *,
    overwrite: bool = False,
    unread: Mapping[str, int] = MappingProxyType({}),
    progress: Progress | None = None,
) -> Summary:
    """Label all items into `out`, or what is left of them, and write what holds all pictures.

    What is finished of a job with the same settings is kept; pictures that were skipped are tried again.
    overwrite: start anew in a folder that holds a finished job, another one, or other files. unread: what
    `list_items` counted, for the summary. progress: called after each picture.

    Raises UserError if the folder holds something else, or cannot be written.
    """
    labels, told = labeler.labels, {"unread": unread, "machine": labeler.machine}
    target = Target(out, labels, options.rules, labeler.name, options.link_images, options.image_prefix)
    plan = Plan(target, options.formats, options.overlays, frozenset(spread(len(items))))
    writers = make_writers(
        options.formats, target
    )  # refuses what a format cannot hold, before anything is written
    try:
        with OutputFolder(out, "label", identity(labeler, items, options), overwrite=overwrite) as output:
            if not output.begun and not overwrite and any(path.name != HOME for path in out.iterdir()):
                raise UserError(
                    f"{out} holds other files; give another --out, or --overwrite to write among them"
                )
            if output.finished and overwrite:
                output.clear()
            names = (*(name for writer in writers for name in writer.outputs), *OTHERS)
            output.refuse_foreign(path for path in map(out.joinpath, names) if path.is_file())
            whole = output.finished
            with Journal(out / HOME / "journal.jsonl", len(items)) as journal:
                if whole and journal.labeled == len(items):
                    if progress:
                        progress(len(items), 0, len(items))
                    return Summary.of(labels, journal.records, **told)
                before = journal.labeled
                output.begin()
                _label(engine, plan, journal, items, progress)
                if not whole or journal.labeled > before:
                    _finish(plan, journal, items, **told)
                journal.tidy()
                output.finish()
                return Summary.of(labels, journal.records, **told)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"cannot write to {out} ({reason}); mend it and run the same command again") from None


def identity(labeler: Labeler, items: Sequence[Item], options: JobOptions) -> dict[str, Any]:
    """Everything that the results depend on, as JSON holds it."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([item.name, item.file, item.number]).encode())
    made_with = {
        "pictures": f"{len(items)}, {digest.hexdigest()[:16]}",
        "classes": labeler.labels.classes,
        **labeler.identity(),
        **asdict(options),
        "versions": {name: version(name) for name in ("denseclip", "torch")},
    }
    return json.loads(json.dumps(made_with))


def _label(
    engine: Engine, plan: Plan, journal: Journal, items: Sequence[Item], progress: Progress | None
) -> None:
    """Label what has no labels yet."""
    total, skipped, synced = len(journal), 0, time.monotonic()
    done = journal.labeled
    report = progress or (lambda done, skipped, total: None)
    report(done, skipped, total)
    tasks = (Task(position, item) for position, item in enumerate(items) if not journal.has_labels(position))
    with closing(engine(plan, tasks)) as outcomes:
        for position, record in outcomes:
            journal.append(position, record)
            done, skipped = done + 1, skipped + (SKIPPED in record)
            report(done, skipped, total)
            if time.monotonic() - synced > SYNC_SECONDS:
                journal.sync()
                synced = time.monotonic()
    journal.sync()


def _finish(plan: Plan, journal: Journal, items: Sequence[Item], **told: Any) -> None:
    """Write everything that holds more than one picture."""
    out, labels = plan.target.out, plan.target.labels
    for writer in make_writers(plan.formats, plan.target):

        def entries(name: str = writer.name) -> Iterator[Entry]:
            for position, r in journal.records():
                if SKIPPED not in r:
                    yield Entry(
                        position,
                        items[position],
                        r["height"],
                        r["width"],
                        r["confidence"],
                        r["payload"].get(name),
                    )

        writer.finish(entries)
    write_sheet(out / "contact-sheet.jpg", labels, journal.records())
    write_summary(out, labels, journal.records, **told)
