"""Settings every test shares."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # fixtures_support and other helpers, from any subfolder
