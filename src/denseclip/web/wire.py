"""What travels between page and server: JSON, and a plane of numbers behind it."""

import gzip
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray


def packed(header: dict[str, Any], plane: NDArray[np.integer]) -> bytes:
    """Length of the header (4 bytes, little-endian), header as JSON, plane (H, W) of uint8 or uint16; gzipped.

    The header gains "size": [H, W] and "bytes": 1 or 2 of each number.
    """
    small = plane.astype(np.uint8 if plane.max(initial=0) < 256 else "<u2")
    text = json.dumps(header | {"size": list(small.shape), "bytes": small.itemsize}).encode()
    return gzip.compress(len(text).to_bytes(4, "little") + text + small.tobytes(), compresslevel=1)


def unpacked(body: bytes) -> tuple[dict[str, Any], NDArray[np.integer]]:
    """What `packed` was given, from the bytes after a web client undid gzip."""
    start = 4 + int.from_bytes(body[:4], "little")
    header = json.loads(body[4:start])
    plane = np.frombuffer(body[start:], np.uint8 if header["bytes"] == 1 else "<u2")
    return header, plane.reshape(header["size"])


def hexes(palette: NDArray[np.uint8]) -> list[str]:
    """Colours (K, 3) as "#rrggbb"."""
    return [f"#{bytes(colour).hex()}" for colour in palette.astype(np.uint8)]
