"""Cut what a word names out of a picture, as a PNG with transparency: python examples/cut_out.py a.jpg cat cat.png

The other words compete with it: name what else is in the picture as further arguments.
"""

import sys

import numpy as np
from PIL import Image

import denseclip

picture, word, out, *others = sys.argv[1:]
result = denseclip.load("tiny-rn", classes=[word, *others]).segment(picture)
print(f"{word} covers {result.areas.get(word, 0) / result.mask.size:.1%}")
soft = result.probability(word)  # (H, W) in 0..1
inside = result.masks[word] if word in result.masks else np.zeros(result.mask.shape, bool)
alpha = np.where(inside, np.clip(soft * 2, 0, 1), 0)
image = np.asarray(Image.open(picture).convert("RGB"))
Image.fromarray(np.dstack([image, (alpha * 255).astype(np.uint8)])).save(out)
