"""A small data set of one's own, and a model that segments it in no time."""

import json

import numpy as np
from PIL import Image

from clip_support import tiny_clip
from denseclip.loading import make_settings, set_dataset_classes
from denseclip.segment.segmenter import Segmenter

CLASSES = {"0": "sky", "1": "cat", "4": "dog"}


def write_own_data(root, images=5, size=(48, 64), **keys):
    """`images` pictures and masks of noise with the ids of CLASSES and 255; `keys` go into data.json."""
    rng = np.random.default_rng(3)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(images):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        ids = (
            rng.choice([0, 1, 4, 255], (size[0] // 8, size[1] // 8))
            .astype(np.uint8)
            .repeat(8, 0)
            .repeat(8, 1)
        )
        Image.fromarray(pixels).save(root / "images" / f"{index}.png")
        Image.fromarray(ids).save(root / "masks" / f"{index}.png")
    content = {"images": "images", "masks": "masks", "classes": CLASSES, "name": "noise"} | keys
    (root / "data.json").write_text(json.dumps(content))
    return root


def tiny_segmenter(spec, kind="vit", **settings):
    """A segmenter with random weights that asks for the classes of `spec`."""
    segmenter = Segmenter(
        tiny_clip(kind), None, make_settings(**{"resize": "short:64", "templates": "1"} | settings)
    )
    set_dataset_classes(segmenter, spec)
    return segmenter
