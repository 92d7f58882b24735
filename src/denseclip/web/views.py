"""What the page shows of an answer, and what a visitor takes home."""

import gzip
import io
import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from denseclip.data.stickers import render
from denseclip.errors import UserError
from denseclip.segment.paint import background_of, heat_colors, hexes
from denseclip.web.model_server import ModelServer, presets
from denseclip.web.request import SIZES, Origin, command, mask_name, python_lines
from denseclip.web.session import Answer, Picture


def packed(header: dict[str, Any], plane: NDArray[np.integer]) -> bytes:
    """Length of the header (4 bytes, little-endian), header as JSON, plane (H, W) of uint8 or uint16; gzipped.

    The header gains "size": [H, W] and "bytes": 1 or 2 of each number.
    """
    small = plane.astype(np.uint8 if plane.max(initial=0) < 256 else "<u2")
    text = json.dumps(header | {"size": list(small.shape), "bytes": small.itemsize}).encode()
    return gzip.compress(len(text).to_bytes(4, "little") + text + small.tobytes(), compresslevel=1)


def unpacked(body: bytes) -> tuple[dict[str, Any], NDArray[np.integer]]:
    """What `packed` was given, from the bytes after a web client undid gzip."""
    start = 4 + int.from_bytes(body[:4], "little")
    header = json.loads(body[4:start])
    plane = np.frombuffer(body[start:], np.uint8 if header["bytes"] == 1 else "<u2")
    return header, plane.reshape(header["size"])


def png(picture: Image.Image) -> bytes:
    """A picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """(H, W, 3) uint8 RGB as JPEG, for showing it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def picture_png(picture: Picture) -> bytes:
    """The picture as the model sees it, without loss: what the command line needs to find the same mask."""
    return png(Image.fromarray(picture.image))


def coco_json(answer: Answer) -> bytes:
    """One picture in COCO's form, see `Segmentation.to_coco`; UserError without pycocotools."""
    made = {"info": {"description": f"denseclip, {answer.segmenter.clip.name}"}}
    return json.dumps(made | answer.result.to_coco(answer.picture.name), indent=1).encode()


SPLIT, SIDE = "demo", 512
SCENES = (19, 10, 3, 21, 11, 23, 16, 14)
OTHERS = ("dog", "car", "apple", "sky", "brick wall", "snow")  # words that are mostly not there


@dataclass(frozen=True)
class Example:
    """A scene: file name, (H, W, 3) uint8 RGB, words that are in it and some that are not, comma-separated."""

    name: str
    image: NDArray[np.uint8]
    words: str


@cache
def example(index: int) -> Example:
    """Example `index` of the page. Raises UserError if there is none."""
    if not 0 <= index < len(SCENES):
        raise UserError(f"there is no example {index}; choose 0 to {len(SCENES) - 1}")
    scene = render(SPLIT, SCENES[index], side=SIDE)
    words = dict.fromkeys((*scene.names, *OTHERS))
    return Example(f"scene-{SCENES[index]}.png", scene.image, ", ".join(words))


@cache
def example_thumbnail(index: int) -> NDArray[np.uint8]:
    """Example `index`, small: (128, 128, 3) uint8."""
    return thumbnail(example(index).image)


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle of a picture (H, W, 3), (128, 128, 3) uint8."""
    return np.asarray(ImageOps.fit(Image.fromarray(image), (128, 128)))


def about(server: ModelServer) -> dict[str, Any]:
    """Model, choices, limits, and how many examples there are."""
    return {
        "model": server.about(),
        "presets": presets(server.shared.model),
        "preset": server.preset,
        "sizes": SIZES,
        "limits": {
            "upload": server.limits.upload,
            "pixels": server.limits.pixels,
            "words": server.limits.words,
        },
        "examples": len(SCENES),
        "heat": hexes(heat_colors()),
    }


def picture_view(picture: Picture) -> dict[str, Any]:
    """A picture without its pixels."""
    height, width = picture.image.shape[:2]
    return {"name": picture.name, "height": height, "width": width, "number": picture.number}


def answer_header(answer: Answer, origin: Origin) -> dict[str, Any]:
    """An answer without its mask. Classes are in the order of the mask's ids."""
    result, prompts, peaks = answer.result, answer.prompts, answer.result.peaks
    words = dict(zip(prompts.classes, prompts.prompts, strict=True))
    colors = hexes(result.palette)
    return {
        "classes": [
            {
                "name": name,
                "words": words.get(name, ()),
                "color": color,
                "area": result.areas.get(name, 0),
                "scored": name in result.scored,
                "peak": peaks.get(name),
            }
            for name, color in zip(result.classes, colors, strict=True)
        ],
        "background": background_of(result.classes),
        "names": [place._asdict() for place in result.name_places()],
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
