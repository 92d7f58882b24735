"""Official cases: weights made from the names in the file, put into our modules with every key used."""

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fixtures_support import maskclip_weights


def named_shapes(stored: Any) -> dict[str, tuple[int, ...]]:
    """{name: shape} of a case."""
    return {name: tuple(shape) for name, shape in json.loads(str(stored["names"]))}


def load_official(module: nn.Module, stored: Any, prefix: str = "") -> None:
    """Fill `module` with the case's generated weights, whose names start with `prefix`; strict."""
    owners = json.loads(str(stored["norm_owners"]))
    filled = maskclip_weights.fill(named_shapes(stored), int(stored["seed"]), owners)
    state = {name.removeprefix(prefix): torch.from_numpy(np.asarray(a)) for name, a in filled.items()}
    module.load_state_dict(state, strict=True)


def tensor(stored: Any, name: str) -> Tensor:
    """One array of a case."""
    return torch.from_numpy(np.asarray(stored[name]))
