"""From published annotation files to the ids that the loader reads; light enough for worker processes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from denseclip.data.masks import read_ids
from denseclip.errors import UserError
from denseclip.io import atomic_path


@dataclass(frozen=True)
class Conversion:
    """One file to write. variable: None for an image of ids, or what holds them in a MATLAB file: "GTcls" of
    SBD or "LabelMap" of PASCAL-Context. table: {stored id: written id}; None to keep the ids.
    """

    source: Path
    target: Path
    variable: str | None = None
    table: Mapping[int, int] | None = None


def convert(job: Conversion) -> str | None:
    """Write the target, whole or not at all; returns the message for the user if it fails."""
    try:
        ids = _read(job)
        if job.table is not None:
            ids = _mapped(ids, job.table, job.source)
        with atomic_path(job.target) as temporary:
            Image.fromarray(ids.astype(np.uint8)).save(temporary)
    except UserError as error:
        return str(error)
    return None


def _read(job: Conversion) -> NDArray[Any]:
    if job.variable is None:
        return read_ids(job.source)
    try:
        from scipy.io import loadmat
    except ImportError:
        raise UserError("MATLAB files need scipy: pip install 'denseclip[evaluate]'") from None
    try:
        found = loadmat(job.source, variable_names=[job.variable])[job.variable]
        return found["Segmentation"][0, 0] if job.variable == "GTcls" else found
    except Exception as error:  # scipy raises whatever the damaged bytes lead to
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise UserError(f"cannot read {job.source} ({reason}): fetch it again") from None


def _mapped(ids: NDArray[Any], table: Mapping[int, int], source: Path) -> NDArray[Any]:
    lookup = np.full(max(*table, int(ids.max(initial=0))) + 1, -1, np.int32)
    lookup[list(table)] = list(table.values())
    mapped = lookup[ids]
    if mapped.min(initial=0) < 0:
        raise UserError(
            f"{source} has id {int(ids[mapped < 0][0])}, which its data set does not have: fetch it again"
        )
    return mapped
