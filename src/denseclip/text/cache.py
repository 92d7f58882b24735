"""Class embeddings kept on disk.

One folder a group (same weights, precision and templates), in it shards of rows. A shard is written once,
named by the SHA-256 of its bytes and renamed into place, so writers never meet and damage never passes for
data. One more word is one more small shard; many shards are merged into one.
"""

import hashlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

from denseclip.io import atomic_path

log = logging.getLogger(__name__)

Rows = dict[bytes, np.ndarray]
"""{32-byte key of a prompt: float32 vector (D,)}."""

LIMIT_BYTES = 256 * 2**20
MERGE_AT = 8
_SUFFIX = ".safetensors"
_STALE_SECONDS = 3600


def cache_folder() -> Path:
    """`DENSECLIP_CACHE`, or `denseclip` in `XDG_CACHE_HOME`, or `~/.cache/denseclip`. It need not exist."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    folder = Path(os.environ.get("DENSECLIP_CACHE") or base / "denseclip")
    try:
        return folder.expanduser()
    except RuntimeError:  # nobody's home
        return folder


class EmbeddingCache:
    """Rows by group and key, in `folder` (default: `embeddings` in `cache_folder()`), at most `limit_bytes`.

    Nothing here raises for the disk's sake: what cannot be read is computed anew, and the first write that
    fails logs one warning and ends writing.
    """

    def __init__(self, folder: Path | str | None = None, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = Path(folder) if folder is not None else cache_folder() / "embeddings"
        self.limit_bytes = limit_bytes
        self._writable = True

    def load(self, group: str) -> Rows:
        """All rows of a group; damaged shards are removed, logged and left out."""
        return self._read(self._shards(group))

    def store(self, group: str, rows: Rows) -> None:
        """Add rows to a group, merge its shards if they are many, drop the oldest ones beyond the limit."""
        if not self._writable or not rows:
            return
        try:
            shards = self._shards(group)
            if len(shards) < MERGE_AT:
                self._write(group, rows)
            else:
                merged = self._write(group, self._read(shards) | rows)
                for shard in shards:
                    if shard != merged:
                        shard.unlink(missing_ok=True)
            self._sweep()
        except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
            self._writable = False
            log.warning(
                "class embeddings are not cached: %s; set DENSECLIP_CACHE to a writable folder", error
            )

    def _shards(self, group: str) -> list[Path]:
        try:
            names = sorted((self.folder.expanduser() / group).iterdir())
        except (OSError, RuntimeError):
            return []
        return [path for path in names if path.suffix == _SUFFIX and not path.name.startswith(".")]

    def _read(self, shards: list[Path]) -> Rows:
        rows: Rows = {}
        for shard in shards:
            rows |= _read_shard(shard)
        return rows

    def _write(self, group: str, rows: Rows) -> Path:
        content = _pack(rows)
        path = self.folder.expanduser() / group / (hashlib.sha256(content).hexdigest() + _SUFFIX)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        return path

    def _sweep(self) -> None:
        """Remove what dead writers left behind, then the oldest shards beyond the limit."""
        kept = []
        for path in self.folder.expanduser().glob(f"*/*{_SUFFIX}"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process was quicker
                continue
            if not path.name.startswith("."):
                kept.append((status.st_mtime, status.st_size, path))
            elif time.time() - status.st_mtime > _STALE_SECONDS:
                path.unlink(missing_ok=True)
        excess = sum(size for _, size, _ in kept) - self.limit_bytes
        for _, size, path in sorted(kept):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size


def _pack(rows: Mapping[bytes, np.ndarray]) -> bytes:
    keys = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)  # (N, 32)
    return safetensors.numpy.save({"keys": keys, "rows": np.stack(list(rows.values()))})  # rows (N, D)


def _read_shard(path: Path) -> Rows:
    try:
        content = path.read_bytes()
    except FileNotFoundError:  # merged or dropped by another process
        return {}
    except OSError as error:
        log.info("cached class embeddings %s cannot be read (%s)", path, error)
        return {}
    if hashlib.sha256(content).hexdigest() != path.stem:
        log.info("cached class embeddings %s are damaged; they are computed anew", path)
        _discard(path)
        return {}
    arrays = safetensors.numpy.load(content)
    return {key.tobytes(): row for key, row in zip(arrays["keys"], arrays["rows"], strict=True)}


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.info("%s cannot be removed (%s)", path, error)
