"""Render the sprite atlas from Noto Color Emoji (needed once; the atlas ships with the package).

python -m tools.build_atlas /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from denseclip.data.stickers.scenes import ATLAS, COLUMNS, SIDE, read_list
from denseclip.io import atomic_path

STRIKE = 109  # the font's only bitmap size, in pixels


def glyph(font: ImageFont.FreeTypeFont, codepoint: int) -> Image.Image:
    """One emoji, cropped to what is visible and centered on a transparent square of `SIDE` pixels."""
    canvas = Image.new("RGBA", (256, 256))
    ImageDraw.Draw(canvas).text((48, 48), chr(codepoint), font=font, embedded_color=True)
    box = canvas.getchannel("A").getbbox()
    if box is None:
        raise ValueError(f"the font draws nothing for U+{codepoint:X}")
    cut = canvas.crop(box)
    scale = (SIDE - 4) / max(cut.size)
    cut = cut.resize((round(cut.width * scale), round(cut.height * scale)), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIDE, SIDE))
    square.paste(cut, ((SIDE - cut.width) // 2, (SIDE - cut.height) // 2))
    return square


def build(font_path: Path) -> Image.Image:
    """All sprites of the list, row by row."""
    font = ImageFont.truetype(str(font_path), STRIKE)
    entries = read_list()
    atlas = Image.new("RGBA", (COLUMNS * SIDE, -(-len(entries) // COLUMNS) * SIDE))
    for i, entry in enumerate(entries):
        atlas.paste(glyph(font, entry.codepoint), (i % COLUMNS * SIDE, i // COLUMNS * SIDE))
    pixels = np.asarray(atlas).copy()
    pixels[pixels[..., 3] == 0] = 0  # invisible colors cost bytes
    return Image.fromarray(pixels)


def main() -> None:
    """Write the atlas next to the sprite list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("font", type=Path)
    atlas = build(parser.parse_args().font)
    with atomic_path(ATLAS) as temporary:
        atlas.save(temporary, quality=82, alpha_quality=90, method=6)
    print(f"{len(read_list())} sprites, {ATLAS.stat().st_size / 2**20:.1f} MiB: {ATLAS}")


if __name__ == "__main__":
    main()
