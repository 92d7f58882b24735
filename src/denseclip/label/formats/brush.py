"""Label Studio's run lengths of brush strokes: a bit stream of runs of RGBA bytes."""

import numpy as np
from numpy.typing import NDArray

SIZES = (3, 4, 8, 16)  # bits of a run's length, of which each run names one
CHANNELS = 4
_LONGEST = 1 << SIZES[-1]


def encode_brush(region: NDArray[np.bool_]) -> bytes:
    """A region (H, W) as RGBA pixels of 255 in all channels, 0 outside.

    32 bits: number of values; 5: their width - 1; 4 x 4: `SIZES` - 1; then runs of a flag, which size (2 bits),
    length - 1 and the value.
    """
    values = region.ravel()
    edges = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1, [values.size]])
    fields = [f"{values.size * CHANNELS:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    lit = bool(values[0])
    for length in (np.diff(edges) * CHANNELS).tolist():
        value = "11111111" if lit else "00000000"
        rest = length
        while rest:
            run = min(rest, _LONGEST)
            fields.append(_run(run) + value)
            rest -= run
        lit = not lit
    bits = "".join(fields)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def _run(length: int) -> str:
    which = next(i for i, size in enumerate(SIZES) if length <= 1 << size)
    return f"1{which:02b}{length - 1:0{SIZES[which]}b}"
