"""Print the oldest versions that pyproject.toml allows, as constraints for pip: see `make test-oldest`."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
groups = [project["dependencies"], *project["optional-dependencies"].values()]
for requirement in sorted({line for group in groups for line in group}):
    name, bound = re.match(r"([\w.-]+)(?:\[[\w,]+\])?(?:>=([\w.]+))?", requirement).groups()
    if bound:
        print(f"{name}=={bound}.*" if bound.count(".") < 3 else f"{name}=={bound}")
