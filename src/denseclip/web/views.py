"""What the page is told, as plain objects for JSON."""

from typing import Any

import cv2
import numpy as np

from denseclip.web.examples import SCENES
from denseclip.web.holder import Holder, presets
from denseclip.web.question import SIZES
from denseclip.web.session import Answer, Picture
from denseclip.web.snippets import Origin, command, mask_name, python_lines
from denseclip.web.wire import hexes


def about(holder: Holder) -> dict[str, Any]:
    """Model, choices, limits, and how many examples there are."""
    return {
        "model": holder.about(),
        "presets": presets(holder.held.model),
        "preset": holder.preset,
        "sizes": SIZES,
        "limits": {
            "upload": holder.limits.upload,
            "pixels": holder.limits.pixels,
            "words": holder.limits.words,
        },
        "examples": len(SCENES),
        "heat": hexes(heat_colours()),
    }


def picture_view(picture: Picture) -> dict[str, Any]:
    """A picture without its pixels."""
    return {"name": picture.name, "height": picture.image.shape[0], "width": picture.image.shape[1]}


def answer_header(answer: Answer, origin: Origin) -> dict[str, Any]:
    """An answer without its mask. Classes are in the order of the mask's ids."""
    result, ontology = answer.result, answer.ontology
    words = dict(zip(ontology.classes, ontology.prompts, strict=True))
    colours = hexes(result.palette)
    return {
        "classes": [
            {
                "name": name,
                "words": words.get(name, ()),
                "colour": colour,
                "area": result.areas.get(name, 0),
                "scored": name in result.scored,
            }
            for name, colour in zip(result.classes, colours, strict=True)
        ],
        "background": result.has_background,
        "milliseconds": round(1000 * answer.seconds, 1),
        "encoded": answer.encoded,
        "protocol": answer.segmenter.settings.describe(),
        "command": command(origin, answer.question, answer.picture.name),
        "python": python_lines(origin, answer.question, answer.picture.name),
        "mask_name": mask_name(answer.picture.name),
    }


def pixel_view(answer: Answer, row: int, column: int) -> dict[str, Any]:
    """The class of a pixel, and its best words."""
    words = answer.words_at(row, column)
    return {
        "row": row,
        "column": column,
        "class": answer.result.classes[answer.result.mask[row, column]],
        "words": [vars(word) for word in words],
    }


def heat_colours() -> np.ndarray:
    """(256, 3) uint8 RGB, from low to high: those of `Segmentation.heat_overlay`."""
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    return np.asarray(cv2.applyColorMap(ramp, cv2.COLORMAP_TURBO))[:, 0, ::-1]
