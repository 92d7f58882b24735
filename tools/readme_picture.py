"""Draws docs/demo.jpg, the picture of README.md: python tools/readme_picture.py docs/demo.jpg

What `denseclip demo` makes: its scenes with their overlays, one to a column.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from denseclip.cli.segment import demo
from denseclip.io import atomic_path

WIDTH, GAP = 330, 12


def main(path: Path) -> None:
    """Run the demo and put its overlays, which end in their legends, beside each other."""
    with tempfile.TemporaryDirectory() as folder:
        demo(out=Path(folder))
        overlays = [
            Image.open(one).convert("RGB") for one in sorted(Path(folder).glob("scene-*-overlay.png"))
        ]
    small = [
        one.resize((WIDTH, round(one.height * WIDTH / one.width)), Image.Resampling.LANCZOS)
        for one in overlays
    ]
    canvas = Image.new("RGB", (len(small) * (WIDTH + GAP) - GAP, max(one.height for one in small)), "white")
    for column, one in enumerate(small):
        canvas.paste(one, (column * (WIDTH + GAP), 0))
    with atomic_path(path) as temporary:
        canvas.save(temporary, "JPEG", quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
