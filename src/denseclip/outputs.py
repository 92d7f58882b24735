"""Output folders: what we wrote into them, from what and by which settings, and who is writing now.

A folder of outputs has a hidden folder `.denseclip`: `run.json` says which command wrote with which settings, and
whether it came to its end; `files-*.jsonl` (one a process) list every file of ours with a digest, noted *before* the
file is renamed into place, so that no kill can leave one unlisted. A file is ours while its content is what we noted:
what a user puts there, or changes afterwards, is the user's, and is never replaced nor deleted.
"""

import hashlib
import json
import os
import re
import socket
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, Self

from denseclip.errors import UserError

HOME = ".denseclip"
TEMPORARY = ".tmp"
WHOLE = 1 << 22  # larger files are told apart by size and samples
_LEFT_OVER = re.compile(r"^\..*\.tmp(\.[^.]*)?$")  # the names of `io.atomic_path`
_notes = Lock()
Line = dict[str, Any]


class ForeignFileError(UserError):
    """A file that is not ours stands where an output should go."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is there and was not written by this command; move it away or give another --out"
        )


class OutputFolder:
    """A folder that one command writes into, alone. Use it in a `with`; `finish` says that all is written.

    settings: what the outputs mean, as JSON holds it: two runs whose settings differ do not mix. `finished`: whether
    an earlier run with the same settings came to its end. `begun`: whether there was one. begin: at once.

    Raises UserError if another process is writing there, if the folder holds results of another command or other
    settings and `overwrite` is not set, and OSError if it cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        command: str,
        settings: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
        begin: bool = False,
    ) -> None:
        self.folder, self.command, self.overwrite, self._begins = folder, command, overwrite, begin
        self.settings: dict[str, Any] = json.loads(json.dumps(settings or {}, default=str))
        self.finished = self.begun = False
        self._lock: BinaryIO | None = None

    def __enter__(self) -> Self:
        home = self.folder / HOME
        self._new = not self.folder.exists()
        home.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(home, self.folder)
        try:
            self._take_over()
            if self._begins:
                self.begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is None:
            return
        home = self.folder / HOME
        if not (home / "run.json").exists():  # refused before anything was written
            (home / "lock").unlink(missing_ok=True)
            if _remove_empty(home) and self._new:
                _remove_empty(self.folder)
        self._lock.close()
        self._lock = None

    def begin(self) -> None:
        """Note that there is something to write; what a killed process left half-written goes."""
        if self.begun and not self.finished:
            self._sweep()
        self.finished, self.begun = False, True
        self._write()

    def finish(self) -> None:
        """Note that all is written."""
        self.finished = True
        self._write()

    def clear(self) -> None:
        """Remove every file that is still ours, and the folders that are empty then."""
        for name, lines in _listed(self.folder).items():
            path = self.folder / name
            if _is_ours(path, lines):
                path.unlink()
                for parent in path.parents:
                    if parent == self.folder or not _remove_empty(parent):
                        break
        for path in (self.folder / HOME).iterdir():
            if path.name != "lock":
                path.unlink()
        _forget(self.folder)
        self.begun = self.finished = False

    def refuse_foreign(self, paths: Iterable[Path]) -> None:
        """UserError naming the first of these files that is there and not ours."""
        listed = _listed(self.folder)
        for path in paths:
            if os.path.lexists(path) and not _is_ours(path, listed.get(_relative(path, self.folder), ())):
                raise ForeignFileError(path)

    def has(self, path: Path) -> bool:
        """Whether a file is there, whole and ours."""
        return path.exists() and _is_ours(path, _listed(self.folder).get(_relative(path, self.folder), ()))

    def names(self, pictures: Sequence[Path], suffixes: Sequence[str]) -> list[str]:
        """A name for the outputs of each picture, which are called that name + suffix.

        No two outputs have one name, not even where capitals do not count; none has the name of one of the pictures;
        a picture keeps the name that an earlier run in this folder gave it.
        """
        known: dict[str, str] = self._header().get("names", {})
        originals = {_place(path) for path in pictures}
        taken = {(name + suffix).casefold() for name in known.values() for suffix in suffixes}

        def free(name: str) -> bool:
            outputs = [name + suffix for suffix in suffixes]
            clash = taken.intersection(one.casefold() for one in outputs)
            return not clash and not originals.intersection(_place(self.folder / one) for one in outputs)

        found = []
        for path in pictures:
            place = _place(path)
            if place not in known:
                short = [path.stem, f"{path.parent.name}-{path.stem}", f"{path.stem}-{path.suffix[1:]}"]
                name, number = next((one for one in short if free(one)), ""), 1
                while not name:
                    number += 1
                    name = f"{path.stem}-{number}" if free(f"{path.stem}-{number}") else ""
                known[place] = name
                taken |= {(name + suffix).casefold() for suffix in suffixes}
            found.append(known[place])
        self._names = known
        return found

    _names: Mapping[str, str] | None = None

    def _take_over(self) -> None:
        there = self._header()
        self.begun, self.finished = bool(there), bool(there.get("finished"))
        if not there or (there["command"], there["settings"]) == (self.command, self.settings):
            return
        if self.overwrite:
            self.clear()
            return
        if there["command"] != self.command:
            what = f"what `denseclip {there['command']}` wrote"
        else:
            keys = {**there["settings"], **self.settings}
            other = [key for key in keys if there["settings"].get(key) != self.settings.get(key)]
            what = f"results made with other {', '.join(other)}"
        raise UserError(f"{self.folder} holds {what}; give another --out, or --overwrite to start anew")

    def _header(self) -> dict[str, Any]:
        try:
            there = json.loads((self.folder / HOME / "run.json").read_text(encoding="utf-8"))
            return {"command": str(there["command"]), "settings": dict(there["settings"]), **there}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError):
            return {"command": "unknown (run.json is damaged)", "settings": {}}

    def _write(self) -> None:
        names = self._header().get("names", {}) if self._names is None else self._names
        content = {
            "command": self.command,
            "settings": self.settings,
            "finished": self.finished,
            "names": names,
        }
        path = self.folder / HOME / "run.json"
        temporary = path.with_name(".run.json.tmp")
        try:
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _sweep(self) -> None:
        for here, _, files in os.walk(self.folder):
            for name in files:
                if _LEFT_OVER.match(name):
                    Path(here, name).unlink(missing_ok=True)


def note(path: Path, content: Path | None = None, *, link: Path | None = None) -> None:
    """Before a file of ours is put at `path`: note it in its output folder, if it is in one.

    content: where it lies now. link: the original, if it becomes a link to that. Raises UserError if a file is there
    that is not ours.
    """
    root = root_of(path.parent)
    if root is None or HOME in path.parts:
        return
    name = _relative(path, root)
    if os.path.lexists(path) and not _is_ours(path, _listed(root).get(name, ())):
        raise ForeignFileError(path)
    line: Line = {"path": name}
    if link is not None:
        line["link"] = os.path.realpath(link)
    if content is not None:
        status = content.stat()
        line |= {"size": status.st_size, "mtime": status.st_mtime_ns, "digest": _digest(content)}
    text = json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"
    with _notes:
        with (root / HOME / f"files-{socket.gethostname()}-{os.getpid()}.jsonl").open("ab") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
        if (cached := _cache.get(root)) is not None:
            cached[name].append(line)


def mark(folder: Path, command: str) -> None:
    """Make a folder one of outputs, if it is in none yet, for files that are written without a run."""
    folder.mkdir(parents=True, exist_ok=True)
    if root_of(folder) is None:
        (folder / HOME).mkdir(exist_ok=True)
        OutputFolder(folder, command)._write()


def is_output(path: Path) -> bool:
    """Whether a file was written by one of our commands and is as it was: no picture of the user's.

    The example pictures of `denseclip demo` are pictures.
    """
    root = root_of(path.parent)
    if root is None or _command(root) == "demo":
        return False
    return _is_ours(path, _listed(root).get(_relative(path, root), ()))


def root_of(folder: Path) -> Path | None:
    """The output folder that a folder is in, the nearest one; None outside of any."""
    here = Path(os.path.abspath(folder))  # noqa: PTH100 links are followed by nobody here
    return next((one for one in (here, *here.parents) if (one / HOME).is_dir()), None)


_cache: dict[Path, defaultdict[str, list[Line]]] = {}
_stamps: dict[Path, tuple[tuple[str, int], ...]] = {}


def _listed(root: Path) -> Mapping[str, Sequence[Line]]:
    """What is noted of every file of an output folder; read again only where another process has written."""
    root = Path(os.path.abspath(root))  # noqa: PTH100
    own = f"files-{socket.gethostname()}-{os.getpid()}.jsonl"
    with _notes:
        files = sorted((root / HOME).glob("files-*.jsonl"))
        stamp = tuple((file.name, file.stat().st_size) for file in files if file.name != own)
        if root not in _cache or _stamps.get(root) != stamp or not (root / HOME).is_dir():
            lines: defaultdict[str, list[Line]] = defaultdict(list)
            for file in files:
                for text in file.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
                    try:
                        line = json.loads(text)
                        lines[line["path"]].append(line)
                    except (ValueError, KeyError, TypeError):  # the end of a killed process's list
                        continue
            _cache[root], _stamps[root] = lines, stamp
        return _cache[root]


def _forget(root: Path) -> None:
    with _notes:
        _cache.pop(Path(os.path.abspath(root)), None)  # noqa: PTH100


def _is_ours(path: Path, lines: Sequence[Line]) -> bool:
    """Whether a file is one of those that were noted under its name."""
    if not lines:
        return False
    try:
        status = path.lstat()
        if any("link" in line and _same_file(path, line["link"]) for line in lines):
            return True
        sizes = [line for line in lines if line.get("size") == status.st_size]
        if not sizes or path.is_symlink() or path.is_dir():
            return False
        if any(line.get("mtime") == status.st_mtime_ns for line in sizes):
            return True
        digest = _digest(path)
        return any(line.get("digest") == digest for line in sizes)
    except OSError:
        return False


def _same_file(path: Path, original: str) -> bool:
    try:
        return path.samefile(original)
    except OSError:
        return path.is_symlink() and os.path.realpath(path) == original


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE:
            digest.update(file.read())
        else:
            for start in range(0, size, max(1, size // 16)):
                file.seek(start)
                digest.update(file.read(1 << 16))
            file.seek(-(1 << 16), os.SEEK_END)
            digest.update(file.read())
    return digest.hexdigest()


def _locked(home: Path, folder: Path) -> BinaryIO:
    """The folder's lock, which ends with this process, however it ends."""
    file = (home / "lock").open("a+b")
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(
            f"another process is writing into {folder}; wait for it, or give another --out"
        ) from None
    except (ImportError, OSError):  # no locks on this system or disk
        pass
    return file


@lru_cache(maxsize=4096)
def _command_at(root: Path, stamp: int) -> str:
    del stamp
    return str(OutputFolder(root, "")._header().get("command", ""))


def _command(root: Path) -> str:
    try:
        return _command_at(root, (root / HOME / "run.json").stat().st_mtime_ns)
    except OSError:
        return ""


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _place(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100


def _remove_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True
