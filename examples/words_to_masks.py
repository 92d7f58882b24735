"""Masks of a folder, and which of your words are in it at all.

python examples/words_to_masks.py photos "cat, grass" out ViT-B-16
"""

import sys
from pathlib import Path

import denseclip

photos, words, out = sys.argv[1:4]
seg = denseclip.load(
    *sys.argv[4:] or ["tiny-rn"], classes=words
)  # a fourth argument is the model, such as ViT-B-16
paths = sorted(path for path in Path(photos).iterdir() if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
highest: dict[str, float] = {}
for path, result in zip(paths, seg.segment(paths), strict=True):  # lazily, read ahead, in batches
    result.save(out, path.stem)
    for word, probability in result.peaks.items():
        highest[word] = max(probability, highest.get(word, 0))
for word, probability in sorted(highest.items(), key=lambda one: -one[1]):
    print(f"{word}: {probability:.0%} at most{'' if probability > 0.5 else ', perhaps it is nowhere'}")
