"""Detection shares the cases and small models of segmentation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "denseclip"))
