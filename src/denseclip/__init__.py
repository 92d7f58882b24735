"""CLIP made dense: masks for any words.

import denseclip

seg = denseclip.load("tiny-rn", classes=["cat", "sofa", "grass"])
out = seg.segment("picture.jpg")
out.overlay().save("overlay.png")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from denseclip.api import detect, distill, evaluate, export, label, train
    from denseclip.errors import UserError
    from denseclip.loading import load, make_settings
    from denseclip.segment.segmentation import Segmentation
    from denseclip.segment.segmenter import Encoded, Segmenter
    from denseclip.text import ClassPrompts

_HOMES = {  # loaded on first use, so that `import denseclip` does not wait for torch
    "load": "denseclip.loading",
    "make_settings": "denseclip.loading",
    "Segmentation": "denseclip.segment.segmentation",
    "Segmenter": "denseclip.segment.segmenter",
    "Encoded": "denseclip.segment.segmenter",
    "UserError": "denseclip.errors",
    "ClassPrompts": "denseclip.text",
    **dict.fromkeys(("detect", "distill", "evaluate", "export", "label", "train"), "denseclip.api"),
}
__all__ = [
    "ClassPrompts",
    "Encoded",
    "Segmentation",
    "Segmenter",
    "UserError",
    "__version__",
    "detect",
    "distill",
    "evaluate",
    "export",
    "label",
    "load",
    "make_settings",
    "train",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name == "__version__":
        from importlib.metadata import version

        return version("denseclip")
    if name not in _HOMES:
        raise AttributeError(f"module 'denseclip' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
