"""The journal of a job: one line per finished picture, written after its files."""

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from denseclip.io import atomic_path

Record = dict[str, Any]
SKIPPED = "skipped"  # the key of the reason, in records of pictures without labels


class Journal:
    """Records by position of their picture; of two for one position the later counts.

    In memory only where each record begins. A line is a checksum and JSON, so that one half written by a killed
    process is known, and cut off. The job's folder is locked by whoever has it open.
    """

    def __init__(self, path: Path, total: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a+b")
        self._begins = np.full(total, -1, np.int64)
        self._labeled = np.zeros(total, bool)
        self._end = self._scan()
        self._file.truncate(self._end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        """All pictures of the job."""
        return len(self._begins)

    @property
    def labeled(self) -> int:
        """How many pictures have labels."""
        return int(self._labeled.sum())

    def has_labels(self, position: int) -> bool:
        """Whether a picture is done; one that was skipped is not."""
        return bool(self._labeled[position])

    def append(self, position: int, record: Record) -> None:
        """Add the record of a picture; when this returns a killed process cannot lose it."""
        line = _line({"i": position, **record})
        self._file.write(line)
        self._file.flush()
        self._note(position, self._end, SKIPPED not in record)
        self._end += len(line)

    def records(self) -> Iterator[tuple[int, Record]]:
        """(position, record) of all pictures that have one, by position."""
        with self.path.open("rb") as file:
            for position in np.flatnonzero(self._begins >= 0).tolist():
                file.seek(self._begins[position])
                record = _parse(file.readline())
                assert record is not None and record.pop("i") == position
                yield position, record

    def tidy(self) -> None:
        """Write the records in order, each once: however it came about, a finished journal is the same."""
        with atomic_path(self.path) as temporary, temporary.open("wb") as file:
            for position, record in self.records():
                file.write(_line({"i": position, **record}))
        self._file.close()
        self._file = self.path.open("a+b")
        self._end = self._scan()

    def sync(self) -> None:
        """Ask the system to bring everything to the disk."""
        os.fsync(self._file.fileno())

    def _scan(self) -> int:
        """Note all good lines; where they end."""
        end = 0
        self._file.seek(0)
        for line in self._file:
            record = _parse(line)
            if record is None or not 0 <= record["i"] < len(self._begins):
                break
            self._note(record["i"], end, SKIPPED not in record)
            end += len(line)
        return end

    def _note(self, position: int, begin: int, labeled: bool) -> None:
        self._begins[position], self._labeled[position] = begin, labeled


def _line(record: Record) -> bytes:
    content = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x %b\n" % (zlib.crc32(content), content)


def _parse(line: bytes) -> Record | None:
    """The record of a line; None if it is not whole."""
    checksum, _, content = line[:-1].partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(content):
        return None
    return json.loads(content)
