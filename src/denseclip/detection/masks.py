"""A detector behind the interface of a Segmenter: every pixel gets the class of the best thing there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from denseclip.clip.device import Precision
from denseclip.data.images import Picture, as_rgb
from denseclip.detection.predict import SCORE, DetectionResult, TrainedDetector, paint_instances
from denseclip.errors import UserError
from denseclip.segment.attention import DenseFeatures
from denseclip.segment.decode import Prediction
from denseclip.segment.resample import Ready, Window
from denseclip.segment.scoring import Decoding
from denseclip.segment.segmentation import Segmentation
from denseclip.segment.segmenter import Encoded, Segmenter
from denseclip.segment.settings import Background, Settings
from denseclip.text import ClassPrompts
from denseclip.text.prompts import ClassSource


@dataclass(frozen=True)
class EncodedInstances(Encoded):
    """What was found in a picture, whatever the classes and the threshold that are asked for."""

    detected: DetectionResult


class InstanceDecoding(Decoding):
    """Masks from things at full size; what else is asked of scores comes from their coarse map."""

    detected: DetectionResult

    def decoded(self, confidence: bool, *, wait: bool = True) -> Prediction:
        """See `Decoding`."""
        regions, scores = self.detected.regions()
        asked = self.scorer.embeddings
        class_of = np.zeros(1 + len(self.detected.classes), np.int64)  # by what `regions` are labeled
        own, owner = asked.matrix.argmax(1).cpu().numpy(), asked.class_of_prompt.cpu().numpy()
        class_of[1 + own] = 1 + owner
        kept = class_of[regions.label] > 0
        threshold = self.scorer.settings.background.threshold
        assert threshold is not None
        mask, sure = paint_instances(regions.only(kept), scores[kept], threshold)
        return Prediction(torch.from_numpy(class_of[mask])[None], torch.from_numpy(sure)[None])


class DetectorSegmenter(Segmenter):
    """A detector with classes among its own, whose things count from a threshold on.

    As a module it gives for each class the highest score of its things at a cell of `STRIDE` pixels, 0 without one.
    Masks and confidence are those of `denseclip label` with this detector.
    """

    clip: TrainedDetector

    def __init__(
        self,
        detector: TrainedDetector,
        classes: "ClassSource | ClassPrompts | None" = None,
        settings: Settings | None = None,
        *,
        precision: Precision | None = None,
    ) -> None:
        settings = settings or Settings()
        if not settings.background:
            settings = replace(settings, background=Background((), SCORE))
        super().__init__(detector, classes, settings, precision=precision)

    def _make_encoder(self) -> None:
        super()._make_encoder()
        plain = Settings(background=self.settings.background)
        if self.settings != plain or plain.background.threshold is None or plain.background.scored:
            raise UserError(
                f"{self.clip.name} is a detector, with which only a threshold and resize go; leave out other settings"
            )

    def encode_batch(self, pictures: Sequence[Picture | Ready]) -> list[Encoded]:
        """Find things in pictures, one by one."""
        return [self._found(one.image if isinstance(one, Ready) else as_rgb(one)) for one in pictures]

    def _found(self, image: np.ndarray) -> EncodedInstances:
        detected, planes = self.clip.look(image)
        size = (image.shape[0], image.shape[1])
        features = (DenseFeatures(planes[None].float()),)
        made_by = (self.clip.fingerprint, self.settings.query())
        return EncodedInstances(image, (Window(size, 0, 0, *size),), features, made_by, detected)

    def begin(
        self, pictures: Sequence[Picture | Ready], *, confidence: bool = False
    ) -> list[Callable[[], Segmentation]]:
        """See `Segmenter`; things are found at once."""
        return [partial(self.segment, one, confidence=confidence) for one in self.encode_batch(pictures)]

    def decoding(self, picture: "Picture | Encoded") -> Decoding:
        """See `Segmenter`."""
        encoded = picture if isinstance(picture, Encoded) else self.encode(picture)
        self._check_encoded(encoded)
        assert isinstance(encoded, EncodedInstances)
        decoding = InstanceDecoding(
            self._scorer, encoded.size, encoded.cuts, encoded.features, [encoded.image]
        )
        decoding.detected = encoded.detected
        return decoding
