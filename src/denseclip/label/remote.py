"""Files behind an address: whatever fsspec opens."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any

from denseclip.errors import UserError


def is_address(where: str) -> bool:
    """Whether this is an address ("s3://...", "memory://..."), not a local path."""
    return "://" in where


@contextmanager
def careful(where: str) -> Iterator[None]:
    """Turn whatever a file system raises into a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is nothing at {where}; check the address") from None
    except ImportError as error:
        raise UserError(f"{where} needs a package ({_line(error)}); install it") from None
    except Exception as error:  # each file system has errors of its own
        raise UserError(f"{where} cannot be read ({_line(error)}); check it") from None


@contextmanager
def opened(where: str) -> Iterator[IO[bytes]]:
    """A file at an address, open for reading."""
    import fsspec

    with careful(where), fsspec.open(where, "rb") as file:
        yield file


def read_address(where: str, offset: int, size: int, limit: int) -> bytes:
    """`size` bytes from `offset`, or all (-1); UserError for more than `limit` bytes."""
    with opened(where) as file:
        if offset:
            file.seek(offset)
        content = file.read(limit + 1 if size < 0 else size)
    if len(content) > limit:
        raise UserError(f"picture {where} has more than {limit / 2**30:.1f} GiB; make it smaller")
    return content


def expand(address: str) -> list[tuple[str, str]]:
    """(name, address) of the files that an address means: itself, all below a folder, or what a pattern matches.

    Names are relative to the folder, or to what a pattern has before its first wildcard. Sorted.
    Raises UserError if there is nothing, or it cannot be reached.
    """
    import fsspec.core

    with careful(address):
        system, path = fsspec.core.url_to_fs(address)
        magic = next((place for place, c in enumerate(path) if c in "*?["), None)
        if magic is not None:
            root = path[:magic].rpartition("/")[0]
            found = [one for one in system.glob(path) if system.isfile(one)]
        elif system.isdir(path):
            root, found = path, system.find(path)
        else:
            system.info(path)
            return [(PurePosixPath(path).name, address)]
        names = [(one.strip("/").removeprefix(root.strip("/")).lstrip("/"), one) for one in found]
        return sorted((name, _address(address, system, one)) for name, one in names)


def _address(asked: str, system: Any, path: str) -> str:  # noqa: ANN401
    head, chain, tail = asked.partition("::")
    if chain:
        return f"{head.split('://')[0]}://{path.lstrip('/')}{chain}{tail}"
    return system.unstrip_protocol(path)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
