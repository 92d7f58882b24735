"""A base model for autodistill: denseclip as what labels the pictures that its target models learn from."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from denseclip.errors import UserError, need
from denseclip.loading import load

need("autodistill", "denseclip.autodistill")
need("supervision", "denseclip.autodistill")

import supervision  # noqa: E402
from autodistill.detection import DetectionBaseModel  # noqa: E402

if TYPE_CHECKING:
    from autodistill.detection import CaptionOntology

MIN_AREA = 100  # pixels; smaller regions are mostly seams between two words


class DenseCLIP(DetectionBaseModel):
    """Boxes and masks for the captions of an ontology; `label(folder)` is autodistill's own.

        from autodistill.detection import CaptionOntology
        from denseclip.autodistill import DenseCLIP

        base = DenseCLIP(CaptionOntology({"a ripe apple": "apple", "grass": "grass"}))
        base.label("pictures", extension=".jpg")

    A detection is a region: pixels of one class that touch. Captions of one class look for it together. What no
    caption fits is background, and no detection.
    """

    def __init__(
        self,
        ontology: "CaptionOntology",
        model: str = "tiny-rn",
        *,
        min_area: int = MIN_AREA,
        **options: Any,
    ) -> None:
        """model, options: as `denseclip.load` takes them. min_area: pixels that a region must have.

        Raises UserError for a model or an option that cannot be used, and for a `min_area` below 1.
        """
        if min_area < 1:
            raise UserError(f"min_area {min_area} is no number of pixels; give 1 or more")
        self.ontology, self.min_area = ontology, min_area
        self._segmenter = load(model, **options)
        self.set_ontology(ontology)

    def set_ontology(self, ontology: "CaptionOntology") -> None:
        """Look for other captions from now on."""
        captions: dict[str, list[str]] = {}
        for caption, name in ontology.promptMap:
            captions.setdefault(name, []).append(caption)
        self._segmenter.set_classes(captions)
        self.ontology = ontology

    def predict(self, input: "str | NDArray[np.uint8] | Image.Image") -> supervision.Detections:
        """Regions of one picture, the largest first, with masks, and confidence in 0..1.

        input: a path, a PIL picture or, as autodistill reads pictures by OpenCV, an array (H, W, 3) uint8 BGR.
        class_id: the place in `ontology.classes()`.
        """
        picture = np.ascontiguousarray(input[..., ::-1]) if isinstance(input, np.ndarray) else input
        result = self._segmenter.segment(picture)
        found = result.instances(min_area=self.min_area)
        if not found:
            return supervision.Detections.empty()
        height, width = result.mask.shape
        boxes = np.array([one.box for one in found], np.float32)  # (N, 4) x, y, width, height
        boxes[:, 2:] += boxes[:, :2]
        names = self.ontology.classes()
        return supervision.Detections(
            xyxy=boxes,
            mask=np.stack([one.mask(height, width) for one in found]),
            confidence=np.array([one.score for one in found], np.float32),
            class_id=np.array([names.index(one.name) for one in found]),
        )
