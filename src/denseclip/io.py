"""Files: written so that nothing half-written is seen or lost; text that users give; threads that work ahead."""

import errno
import json
import os
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from denseclip import outputs
from denseclip.errors import UserError

S = TypeVar("S")
T = TypeVar("T")
NOT_WRITABLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENAMETOOLONG, errno.EIO, errno.EFBIG,
)  # fmt: skip


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends without an error.

    The temporary name keeps the suffix of `path`, because image writers choose the format by it. On an error the
    temporary file is removed and `path` is left as it was. In an output folder the file is noted as ours.

    Raises UserError if there is a file at `path`, in an output folder, that is not ours.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=f".{path.stem[:40]}-", suffix=f"{outputs.TEMPORARY}{path.suffix}", dir=path.parent
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        put(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def put(temporary: Path, path: Path) -> None:
    """Rename a finished file to `path`, after noting in its output folder, if it is in one, that it is ours."""
    outputs.note(path, temporary)
    temporary.replace(path)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` (UTF-8) to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def cannot_write(error: OSError) -> str | None:
    """What is wrong with a place that cannot be written, in one line; None for any other error."""
    if error.errno not in NOT_WRITABLE:
        return None
    where = error.filename2 or error.filename
    what = f"cannot write to {where}" if where else "cannot write"
    return f"{what} ({error.strerror}); free it or give another --out, then run the same command again"


def prefetch(
    work: Callable[[S], T], items: Iterable[S], *, workers: int, waiting: int
) -> Generator[T, None, None]:
    """`work` of every item, in order, done by threads while the caller is busy with other results.

    Items are taken by the caller's thread. No more than `waiting` results are under way or wait at a time. An
    error of `work` is raised where its turn comes.
    """
    pool = ThreadPoolExecutor(workers)  # decoders, OpenCV and torch let go of the interpreter
    queue: deque[Future[T]] = deque()
    try:
        for item in items:
            queue.append(pool.submit(work, item))
            if len(queue) == waiting:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_text(path: Path, what: str, fix: str) -> str:
    """A UTF-8 file, with or without a byte order mark, as text with "\\n" for every end of a line.

    what: the kind of file, for messages ("list", "COCO file"). fix: what to do if it cannot be read.
    Raises UserError if there is no such file, it may not be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"no {what} {path}: {fix}") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what} {path} cannot be read ({reason}): {fix}") from None
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise UserError(f"{what} {path} is not text in UTF-8: save it as UTF-8") from None


def read_json(path: Path, what: str, fix: str) -> Any:  # noqa: ANN401
    """The content of a JSON file; UserError as `read_text`, and for broken JSON or one key given twice."""
    text = read_text(path, what, fix)
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise UserError(f"{path} is not JSON ({reason}): {fix}") from None


def read_lines(path: Path, fix: str) -> list[str]:
    """The lines of a list file without blank ones; UserError as `read_text`."""
    return [line.strip() for line in read_text(path, "list", fix).split("\n") if line.strip()]


def first_doubled(values: Sequence[str]) -> str | None:
    """The first value that was there before; None if all differ."""
    seen: set[str] = set()
    return next((value for value in values if value in seen or seen.add(value)), None)  # type: ignore[func-returns-value]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    doubled = first_doubled([key for key, _ in pairs])
    if doubled is not None:
        raise ValueError(f"key {doubled!r} comes twice")
    return dict(pairs)
