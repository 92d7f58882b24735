"""What a visitor takes home: mask, overlay, COCO JSON, the picture itself."""

import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from denseclip.errors import UserError
from denseclip.label.labelled import Labels
from denseclip.web.session import Answer, Picture


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
    """One picture in COCO's form: an annotation, run lengths, for each class that occurs.

    Categories are numbered as `denseclip label` does: the classes without the background, from 1 on.
    Raises UserError without pycocotools.
    """
    try:
        from pycocotools import mask as runs
    except ImportError:
        raise UserError("COCO files need pycocotools: pip install 'denseclip[web]'") from None
    result = answer.result
    labels = Labels(result.classes)
    height, width = result.mask.shape
    annotations: list[dict[str, Any]] = []
    for name in result.areas:
        index = result.classes.index(name)
        if index == labels.background:
            continue
        run = runs.encode(np.asfortranarray(result.mask == index, dtype=np.uint8))
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": 1,
                "category_id": int(labels.numbers[index]),
                "segmentation": {"size": [height, width], "counts": run["counts"].decode("ascii")},
                "area": result.areas[name],
                "bbox": [float(side) for side in runs.toBbox(run)],
                "iscrowd": 0,
            }
        )
    made: dict[str, Any] = {
        "info": {"description": f"denseclip, {answer.segmenter.clip.name}"},
        "images": [{"id": 1, "file_name": answer.picture.name, "height": height, "width": width}],
        "categories": [
            {"id": k, "name": name, "supercategory": ""} for k, name in enumerate(labels.things, start=1)
        ],
        "annotations": annotations,
    }
    return json.dumps(made, indent=1).encode()
