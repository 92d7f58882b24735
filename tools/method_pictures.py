"""Draws what each method does, for docs/methods: python -m tools.method_pictures docs/methods

A sticker scene by the embedded CLIPs, before and after each method, with outlines left as the scores have them.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import denseclip
from denseclip.data.stickers import render
from denseclip.data.stickers.scenes import Scene
from denseclip.io import atomic_path

SIDE = 448
OTHERS = (
    *(
        "cat",
        "dog",
        "car",
        "fish",
        "sky",
        "bird",
        "boat",
        "chair",
        "clock",
        "tree",
        "umbrella",
        "snow",
        "water",
    ),
    *("brick wall", "apple", "bread", "book", "cup"),
)
PLAIN: dict[str, Any] = {"refine": "none", "background": "none", "resize": "short:320"}
VIT = {"model": "tiny-vit", "preset": "maskclip"}
DILATED = {"model": "tiny-rn", "preset": "maskclip-dilated"}
METHODS: dict[str, tuple[int, dict[str, dict[str, str]]]] = {  # number of the scene; panels
    "maskclip": (
        0,
        {
            "CLIP's own last block": {"model": "tiny-rn", "preset": "vanilla"},
            "MaskCLIP": {"model": "tiny-rn", "preset": "maskclip"},
            "MaskCLIP, map twice as fine": DILATED,
            "outlines follow the picture": DILATED | {"refine": "guided"},
        },
    ),
    "prompt-denoising": (9, {"MaskCLIP": DILATED, "with prompt denoising": DILATED | {"refine": "pd=0.5"}}),
    "key-smoothing": (
        3,
        {
            "MaskCLIP": VIT,
            "smoothed where unsure": VIT | {"refine": "ks=0.3"},
            "smoothed everywhere": VIT | {"refine": "ks=1"},
        },
    ),
    "sc-clip": (0, {"MaskCLIP": VIT, "SC-CLIP": VIT | {"preset": "sc-clip"}}),
}


def figure(scene: Scene, panels: Mapping[str, Mapping[str, str]]) -> Figure:
    """The scene, then its mask under each of the settings, with legends."""
    words = list(dict.fromkeys((*scene.names, *OTHERS)))
    drawn = Figure(figsize=(3.0 * (len(panels) + 1), 3.9), layout="constrained")
    axes = drawn.subplots(1, len(panels) + 1)
    shown = {"picture": scene.image}
    for title, given in panels.items():
        model = denseclip.load(classes=words, precision="fp32", **{**PLAIN, **given})
        shown[title] = np.asarray(model.segment(scene.image).overlay())
    for ax, (title, picture) in zip(axes, shown.items(), strict=True):
        ax.imshow(picture)
        ax.set_title(title)
        ax.set_axis_off()
        ax.set_anchor("N")
    return drawn


def main(folder: Path) -> None:
    """Write one PNG for each method."""
    for name, (number, panels) in METHODS.items():
        drawn = figure(render("demo", number, side=SIDE), panels)
        with atomic_path(folder / f"{name}.png") as temporary:
            drawn.savefig(temporary, format="png", dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
