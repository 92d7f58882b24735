"""A labelling job: a folder, a journal, and how it goes on where it was stopped."""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from denseclip.errors import UserError
from denseclip.files import write_text
from denseclip.label import sheet
from denseclip.label.engines import Engine
from denseclip.label.formats import WRITERS, make_writers
from denseclip.label.formats.base import Entry, Target
from denseclip.label.items import Item
from denseclip.label.journal import SKIPPED, Journal
from denseclip.label.labelled import Labeller, Rules
from denseclip.label.stages import Plan, Task
from denseclip.label.summary import Summary, write_summary

WORK = ".denseclip"  # the job's own files, in its folder
OTHERS = ("overlays", "confidence", "contact-sheet.jpg", "summary.json", "pictures.csv")
SYNC_SECONDS = 5.0
_LEFT_OVER = re.compile(r"^\..*\.tmp(\.[^.]*)?$")  # the names of `atomic_path`

Progress = Callable[[int, int, int], None]  # labelled or skipped, of these skipped, total


@dataclass(frozen=True)
class JobOptions:
    """What a job writes. link_images, image_prefix: see `Target`."""

    formats: tuple[str, ...] = ("png",)
    rules: Rules = Rules()
    overlays: bool = False
    link_images: bool = True
    image_prefix: str = "/data/local-files/?d="


def run_job(
    labeller: Labeller,
    items: Sequence[Item],
    out: Path,
    options: JobOptions,
    engine: Engine,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Label all items into `out`, or what is left of them, and write what holds all pictures.

    What is finished of a job with the same settings is kept; pictures that were skipped are tried again.
    overwrite: start anew in a folder that holds a finished job, another one, or other files. progress: called
    after each picture.

    Raises UserError if the folder holds something else, or cannot be written.
    """
    labels = labeller.labels
    target = Target(out, labels, options.rules, labeller.name, options.link_images, options.image_prefix)
    plan = Plan(target, options.formats, options.overlays, frozenset(sheet.chosen(len(items))))
    make_writers(options.formats, target)  # refuses what a format cannot hold, before anything is written
    try:
        state = _State(out, identity(labeller, items, options), options)
        state.open(overwrite)
        with Journal(state.folder / "journal.jsonl", len(items)) as journal:
            if state.finished and journal.labelled == len(items):
                if progress:
                    progress(len(items), 0, len(items))
            else:
                before = journal.labelled
                _label(engine, plan, journal, items, progress)
                if not state.finished or journal.labelled > before:
                    _finish(plan, journal, items)
                journal.tidy()
                state.close()
            return Summary.of(labels, journal.records)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"cannot write to {out} ({reason}); mend it and run the same command again") from None


def identity(labeller: Labeller, items: Sequence[Item], options: JobOptions) -> dict[str, Any]:
    """Everything that the results depend on, as JSON holds it."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([item.name, item.file, item.number]).encode())
    made_with = {
        "pictures": f"{len(items)}, {digest.hexdigest()[:16]}",
        "classes": labeller.labels.classes,
        **labeller.identity(),
        **asdict(options),
        "versions": {name: version(name) for name in ("denseclip", "torch")},
    }
    return json.loads(json.dumps(made_with))


def _label(
    engine: Engine, plan: Plan, journal: Journal, items: Sequence[Item], progress: Progress | None
) -> None:
    """Label what has no labels yet."""
    total, skipped, synced = len(journal), 0, time.monotonic()
    done = journal.labelled
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


def _finish(plan: Plan, journal: Journal, items: Sequence[Item]) -> None:
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
    sheet.write_sheet(out / "contact-sheet.jpg", labels, journal.records())
    write_summary(out, labels, journal.records)


class _State:
    """job.json: which job a folder holds, and whether it is finished."""

    def __init__(self, out: Path, job: Mapping[str, Any], options: JobOptions) -> None:
        self.out, self.job, self.formats = out, job, options.formats
        self.folder = out / WORK
        self.finished = False

    def open(self, overwrite: bool) -> None:
        """Go on with the folder's job, or begin one; UserError if the folder holds something else."""
        there = self._read()
        if there is None:
            if not overwrite and self.out.is_dir() and any(name.name != WORK for name in self.out.iterdir()):
                raise UserError(
                    f"{self.out} holds other files; give another --out, or --overwrite to write among them"
                )
        elif there["job"] == self.job and not (overwrite and there["finished"]):
            self.finished = there["finished"]
            if not self.finished:
                self._sweep()
            return
        elif overwrite:
            self._clear(list(there["job"].get("formats", [])))
        else:
            keys = {**there["job"], **self.job}
            other = [key for key in keys if there["job"].get(key) != self.job.get(key)]
            raise UserError(
                f"{self.out} holds labels made with other {', '.join(other)}; give another --out, or --overwrite "
                "to start anew"
            )
        self._write()

    def close(self) -> None:
        """Note that all is written."""
        self.finished = True
        self._write()

    def _read(self) -> dict[str, Any] | None:
        try:
            there = json.loads((self.folder / "job.json").read_text(encoding="utf-8"))
            return {"job": dict(there["job"]), "finished": bool(there["finished"])}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return {"job": {"journal (it is damaged)": True}, "finished": False}

    def _write(self) -> None:
        content = {"job": self.job, "finished": self.finished}
        write_text(self.folder / "job.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def _clear(self, formats: list[str]) -> None:
        """Remove what another job has written, only names that a job writes; its journal last."""
        content = {"job": {"formats": formats, "settings, being removed": True}, "finished": False}
        write_text(self.folder / "job.json", json.dumps(content))
        outputs = [name for form in formats if form in WRITERS for name in WRITERS[form].outputs]
        for name in (*outputs, *OTHERS):
            path = self.out / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        shutil.rmtree(self.folder)

    def _sweep(self) -> None:
        """Remove the half-written files of a killed process."""
        for here, _, files in os.walk(self.out):
            for name in files:
                if _LEFT_OVER.match(name):
                    Path(here, name).unlink(missing_ok=True)
