"""CLIP made dense: masks for any words.

import denseclip

seg = denseclip.load("tiny-rn", classes=["cat", "sofa", "grass"])
out = seg.segment("picture.jpg")
out.overlay().save("overlay.png")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from denseclip.dense.load import load, make_settings
    from denseclip.dense.segmentation import Segmentation
    from denseclip.dense.segmenter import Encoded, Segmenter
    from denseclip.errors import UserError
    from denseclip.vocabulary import Ontology

_HOMES = {  # loaded on first use, so that `import denseclip` does not wait for torch
    "load": "denseclip.dense.load",
    "make_settings": "denseclip.dense.load",
    "Segmentation": "denseclip.dense.segmentation",
    "Segmenter": "denseclip.dense.segmenter",
    "Encoded": "denseclip.dense.segmenter",
    "UserError": "denseclip.errors",
    "Ontology": "denseclip.vocabulary",
}
__all__ = ["Encoded", "Ontology", "Segmentation", "Segmenter", "UserError", "load", "make_settings"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _HOMES:
        raise AttributeError(f"module 'denseclip' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
