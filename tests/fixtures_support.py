"""Where the fixture cases are, and the generators of their weights."""

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

COMMITTED = Path(__file__).parent / "fixtures"


def fixture_root() -> Path:
    """Folder with `maskclip/` and `denseclip/`: the committed copies, or `DENSECLIP_FIXTURES`."""
    return Path(os.environ.get("DENSECLIP_FIXTURES") or COMMITTED)


def cases(group: str, pattern: str) -> list[Path]:
    """All files of a group that match, in any subfolder, so that further cases need no new code."""
    found = sorted((fixture_root() / group).rglob(pattern))
    assert found, f"no {pattern} below {fixture_root() / group}"
    return found


def _module(name: str, path: Path) -> ModuleType:
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


maskclip_weights = _module("maskclip_weights", COMMITTED / "maskclip" / "weights.py")
denseclip_weights = _module("denseclip_weights", COMMITTED / "denseclip" / "weights.py")
training_free_weights = _module("training_free_weights", COMMITTED / "trainingfree" / "weights.py")
