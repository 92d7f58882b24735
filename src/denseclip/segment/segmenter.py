"""Encode a picture once, ask for words as often as you like."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denseclip.clip.device import Precision, processor
from denseclip.data.pictures import Picture, as_rgb
from denseclip.errors import UserError
from denseclip.segment.decoding import Decoding
from denseclip.segment.engine import Engine, default_batch
from denseclip.segment.features import DenseFeatures
from denseclip.segment.inputs import network_inputs, plan
from denseclip.segment.model import Model, embed_words, encoder_of
from denseclip.segment.resample import Size
from denseclip.segment.segmentation import Segmentation
from denseclip.segment.settings import Settings
from denseclip.segment.views import Window
from denseclip.text import ClassEmbeddings, ClassPrompts, EmbeddingCache
from denseclip.text.prompts import ClassSource

BATCH_PIXELS = 1 << 21  # of one network batch
NO_CLASSES = 'no classes are set; call set_classes(["cat", "grass"]) first'


@dataclass(frozen=True)
class Encoded:
    """A picture's dense features under the settings it was encoded with; words are not in it.

    image: (H, W, 3) uint8 RGB. cuts: the network inputs. features: one per cut, with a batch axis of 1.
    """

    image: NDArray[np.uint8]
    cuts: tuple[Window, ...]
    features: tuple[DenseFeatures, ...]
    made_by: tuple[str, Settings]

    @property
    def size(self) -> Size:
        """(H, W) of the picture."""
        return self.image.shape[0], self.image.shape[1]


class Segmenter:
    """A model, words and settings. A CLIP: training-free segmentation (MaskCLIP and its relatives).

    A trained model starts with its own words.
    """

    def __init__(
        self,
        clip: Model,
        classes: "ClassSource | ClassPrompts | None" = None,
        settings: Settings | None = None,
        *,
        cache: EmbeddingCache | None = None,
        precision: Precision | None = None,
    ) -> None:
        self.clip = clip
        self.precision = precision  # how it came about, for protocols
        self.settings = settings or Settings()
        self.encoder = encoder_of(clip, self.settings)
        self._cache = cache
        self._ontology: ClassPrompts | None = None
        self._embeddings: ClassEmbeddings | None = None
        classes = getattr(clip, "ontology", None) if classes is None else classes
        if classes is not None:
            self.set_classes(classes)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by mask id; with a background rule the first is "background"."""
        if self._ontology is None:
            raise UserError(NO_CLASSES)
        return self.settings.background.names(self._ontology)

    @property
    def embeddings(self) -> ClassEmbeddings:
        """Unit vectors of all prompts, background words included."""
        if self._embeddings is None:
            raise UserError(NO_CLASSES)
        return self._embeddings

    def set_classes(self, classes: "ClassSource | ClassPrompts") -> None:
        """Ask for these words from now on; encoded pictures stay valid.

        Raises UserError for words that cannot be used, see `ClassPrompts.parse`.
        """
        ontology, background = ClassPrompts.parse(classes), self.settings.background
        background.names(ontology)  # refuses a second "background"
        prompts = background.prompts(ontology)
        self._embeddings = embed_words(self.clip, prompts, self.settings.templates, self._cache)
        self._ontology = ontology

    def configure(self, **changes: Any) -> None:
        """Change fields of `Settings`.

        Encoded pictures stay valid unless what the network sees changes (dense, compat, resize, slide, scales,
        flip) or key smoothing, which needs keys, is switched on.
        """
        before, self.settings = self.settings, replace(self.settings, **changes)
        self.encoder = encoder_of(self.clip, self.settings)
        after = self.settings
        if self._ontology and (before.background, before.templates) != (after.background, after.templates):
            self.set_classes(self._ontology)

    @property
    def machine(self) -> str:
        """Precision, why it was chosen, and the processor, for protocols."""
        return f"{self.precision or 'precision as loaded'}, {processor(self.clip.device)}"

    def encode(self, picture: Picture) -> Encoded:
        """Run the image tower, once per picture.

        picture: a path, a PIL image, an array (H, W, 3) or a tensor (3, H, W), see `as_rgb`.
        Raises UserError for what is no picture or cannot be read.
        """
        return self.encode_batch([picture])[0]

    def encode_batch(self, pictures: Sequence[Picture]) -> list[Encoded]:
        """Encode several pictures; network inputs of the same size share batches."""
        images = [as_rgb(picture) for picture in pictures]
        plans = [plan(image.shape[:2], self.settings, self.encoder.stride) for image in images]
        inputs = [
            network_inputs(image, cuts, self.encoder.stats) for image, cuts in zip(images, plans, strict=True)
        ]
        features = iter(self._run([one for each in inputs for one in each]))
        made_by = (self.clip.fingerprint, self.settings.query())
        return [
            Encoded(image, tuple(cuts), tuple(next(features) for _ in cuts), made_by)
            for image, cuts in zip(images, plans, strict=True)
        ]

    def segment(self, picture: "Picture | Encoded", *, confidence: bool = False) -> Segmentation:
        """The mask of a picture, encoded before or not; `confidence`: also the winner's, per pixel.

        Raises UserError if it was encoded by another model or under settings that do not fit.
        """
        decoding = self.decoding(picture)
        out = decoding.decoded(confidence)
        classes = self.classes
        scored = self.embeddings.classes
        mask = out.mask.cpu().numpy()
        return Segmentation(
            mask=mask.astype(np.uint8 if len(classes) <= 256 else np.int32),
            classes=classes,
            scores=decoding.scores(),
            image=decoding.encoded.image,
            confidence=None if out.confidence is None else out.confidence.float().cpu().numpy(),
            scored=scored,
            heat_of=decoding.heat,
            has_background=bool(self.settings.background),
        )

    def segment_many(
        self, pictures: Iterable[Picture], *, batch_size: int | None = None, confidence: bool = False
    ) -> Generator[Segmentation, None, None]:
        """The masks of many pictures, lazily and in order, through the engine: read ahead, run in batches.

        batch_size: pictures of one size that are encoded together; None: several on a GPU, one on a CPU. Raises
        UserError where the turn of a picture comes that cannot be used.
        """
        engine = Engine(
            as_rgb,
            self.encode_batch,
            lambda _, encoded: self.segment(encoded, confidence=confidence),
            batch_size or default_batch(self.clip.device),
        )
        with closing(engine.run(pictures)) as results:
            for _, result in results:
                if isinstance(result, UserError):
                    raise result
                yield result

    def decoding(self, picture: "Picture | Encoded") -> Decoding:
        """The scores of a picture under the present words, for heat maps and single pixels."""
        encoded = picture if isinstance(picture, Encoded) else self.encode(picture)
        if encoded.made_by != (self.clip.fingerprint, self.settings.query()):
            raise UserError(
                "this picture was encoded by another model or under other settings; encode it again"
            )
        return Decoding(self, encoded)

    def _run(self, inputs: list[Tensor]) -> list[DenseFeatures]:
        """Features of every input (3, h, w), neighbours of the same size in one batch."""
        features: list[DenseFeatures] = []
        for shape, group in groupby(inputs, key=lambda one: one.shape):
            batch = list(group)
            step = max(1, BATCH_PIXELS // (shape[1] * shape[2]))
            for start in range(0, len(batch), step):
                images = torch.stack(batch[start : start + step])  # (B, 3, h, w)
                features += _split(self.encoder.encode(images, keys=self.settings.refine.ks > 0))
        return features


def _split(dense: DenseFeatures) -> list[DenseFeatures]:
    return [
        DenseFeatures(
            dense.map[i : i + 1],
            None if dense.keys is None else dense.keys[i : i + 1],
            None if dense.whole is None else dense.whole[i : i + 1],
            None if dense.logits is None else dense.logits[i : i + 1],
        )
        for i in range(len(dense.map))
    ]
