"""Encode a picture once, ask for words as often as you like."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any, Protocol, Self, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from denseclip.clip import Clip, ImageStats
from denseclip.clip.device import Precision, processor
from denseclip.data.pictures import Picture, as_rgb
from denseclip.errors import UserError
from denseclip.segment.attention import DenseEncoder, DenseFeatures
from denseclip.segment.decode import Confidence, Decoded, decode
from denseclip.segment.engine import Engine, default_batch
from denseclip.segment.fusion import Composer
from denseclip.segment.preprocess import Window, network_inputs, plan
from denseclip.segment.refine import key_smoothing, prompt_denoising
from denseclip.segment.resample import Size, heatmaps, scores_at
from denseclip.segment.result import Segmentation
from denseclip.segment.settings import DenseOptions, Settings
from denseclip.text import ClassEmbeddings, ClassPrompts, EmbeddingCache, embed_classes
from denseclip.text.prompts import ClassSource


class Encoder(Protocol):
    """The image side of a model under given settings."""

    @property
    def stride(self) -> int:
        """Input pixels per cell of the map; inputs are made a multiple of it."""

    @property
    def stats(self) -> ImageStats:
        """How pixels are normalised."""

    def encode(self, images: Tensor, *, keys: bool = False) -> DenseFeatures:
        """Images (B, 3, H, W), normalised by `stats` -> features; keys are those of key smoothing."""

    def scores(self, features: DenseFeatures, matrix: Tensor) -> Tensor:
        """Scores (B, P, h, w) of every position under the P rows of `matrix`, which `embed` made."""


class TrainedModel(Protocol):
    """A trained network that answers for its own words, and for others as well as it can.

    ontology: its own classes. logit_scale: factor on scores in the soft-max of a probability. fingerprint: a hash
    of its weights.
    """

    name: str
    ontology: ClassPrompts
    logit_scale: float

    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def device(self) -> torch.device: ...  # noqa: D102
    def describe(self) -> str:
        """One line, the name first."""

    @property
    def stats(self) -> ImageStats:
        """How pixels are normalised."""

    def network(
        self, ontology: ClassPrompts | None, templates: Sequence[str]
    ) -> tuple[nn.Module, tuple[str, ...]]:
        """Normalised images (B, 3, H, W) to logits (B, K, h, w) as one module, and its K class names."""

    def encoder(self) -> Encoder:
        """Its image side."""

    def embed(
        self, ontology: ClassPrompts, templates: Sequence[str], cache: EmbeddingCache | None
    ) -> ClassEmbeddings:
        """Rows of words; UserError for a word that it cannot look for."""


Model = Clip | TrainedModel


def encoder_of(model: Model, settings: "Settings") -> Encoder:
    """A CLIP made dense, or a trained model's own image side; UserError for settings that go with a CLIP only."""
    if isinstance(model, Clip):
        return DenseEncoder(model, settings.dense, settings.compat)
    if settings.dense != DenseOptions():
        raise UserError(
            f"{model.name} is a trained model, it has no last block to vary; leave out the preset"
        )
    if settings.refine.ks:
        raise UserError(f"{model.name} is a trained model, it has no keys; leave out key smoothing")
    return model.encoder()


def embed_words(
    model: Model, ontology: ClassPrompts, templates: Sequence[str], cache: EmbeddingCache | None
) -> ClassEmbeddings:
    """Rows of all prompts of an ontology."""
    if isinstance(model, Clip):
        return embed_classes(model, ontology, templates, cache=cache)
    return model.embed(ontology, templates, cache)


COARSE = 8  # pixels per cell of composed scores


class Decoding:
    """The scores of an encoded picture under a segmenter's words, and what follows from them."""

    def __init__(self, segmenter: "Segmenter", encoded: "Encoded") -> None:
        self.segmenter = segmenter
        self.encoded = encoded
        self.size: Size = encoded.size
        settings = segmenter.settings
        official = settings.compat.drop_all and isinstance(segmenter.clip, Clip)
        self.temperature = 100.0 if official else segmenter.clip.logit_scale
        self.via = (encoded.cuts[0].height, encoded.cuts[0].width) if settings.compat.free_size else None

    @cached_property
    def maps(self) -> list[Tensor]:
        """Refined scores (K, h, w) of every network input."""
        return [self._refined(i) for i in range(len(self.encoded.cuts))]

    @cached_property
    def composer(self) -> Composer | None:
        """How the inputs are averaged; None for a single one."""
        return self._composer(self.size) if self.segmenter.settings.composed else None

    @torch.inference_mode()
    def decoded(self, confidence: bool) -> Decoded:
        """Mask (H, W) over the scored classes and the background, and confidence if asked for or needed."""
        background = self.segmenter.settings.background
        kind: Confidence | None = "score" if self.segmenter.settings.refine.ks else "probability"
        if not confidence and background.threshold is None:
            kind = None
        words = len(self.maps[0])
        void = 0 if background.words else words
        out = self._decode(kind, background.threshold, void)
        if (
            background.threshold is not None and not background.words
        ):  # class 0 has no scores: all others move up
            ids = out.mask.to(torch.int32) + 1
            out = Decoded(torch.where(ids == words + 1, 0, ids), out.confidence)
        return out

    def scores(self) -> Tensor:
        """Scores (K, h, w) before decoding; on a grid of `COARSE` pixels if several inputs are averaged."""
        if self.composer is None:
            return self.maps[0]
        size = (max(1, -(-self.size[0] // COARSE)), max(1, -(-self.size[1] // COARSE)))
        return self._composer(size).full(self.maps)

    def heat(self, index: int) -> NDArray[np.float32]:
        """The upsampled scores of one class, (H, W) float32."""
        if self.composer is not None:
            return self.composer.plane(self.maps, index).cpu().numpy()
        return heatmaps(self.maps[0][None], [index], self.size, via=self.via)[0, 0].cpu().numpy()

    def at(self, row: int, column: int) -> Tensor:
        """The scores (K,) at one pixel."""
        if self.composer is not None:
            return self.composer.band(self.maps, slice(row, row + 1))[:, 0, column]
        return scores_at(self.maps[0][None], torch.tensor([[row, column]]), self.size, via=self.via)[0, 0]

    def _composer(self, size: Size) -> Composer:
        """Cosines are averaged as they are, trained models' views by probability, as their tests are defined."""
        temperature = None if isinstance(self.segmenter.clip, Clip) else self.temperature
        return Composer(list(self.encoded.cuts), [_hw(one) for one in self.maps], size, temperature)

    @torch.inference_mode()
    def _refined(self, index: int) -> Tensor:
        """Cosines of one input's positions with the prompts, best prompt per class, PD, KS; (K, h, w)."""
        segmenter, dense = self.segmenter, self.encoded.features[index]
        refine, compat = segmenter.settings.refine, segmenter.settings.compat
        embeddings = segmenter.embeddings
        scores = embeddings.reduce(segmenter.encoder.scores(dense, embeddings.matrix))  # (1, K, h, w)
        if refine.pd:
            scores = prompt_denoising(
                scores, refine.pd, temperature=self.temperature, keep_best=not compat.drop_all
            )
        if refine.ks:
            assert dense.keys is not None
            scores = key_smoothing(
                scores, dense.keys, refine.ks, norm=refine.ks_norm, temperature=self.temperature
            )
            if segmenter.settings.background.threshold is not None:  # sums over neighbours -> shares
                scores = scores / scores.abs().sum(1, keepdim=True).clamp_min(1e-12)
        return scores[0]

    def _decode(self, kind: Confidence | None, threshold: float | None, void: int) -> Decoded:
        if self.composer is None:
            out = decode(
                self.maps[0][None],
                self.size,
                via=self.via,
                confidence=kind,
                temperature=self.temperature,
                threshold=threshold,
                void=void,
            )
            return out.map(lambda plane: plane[0])
        masks, confidences = [], []
        for rows in self.composer.bands(len(self.maps[0])):
            full = self.composer.band(self.maps, rows)  # (K, R, W)
            best, ids = full.max(0)
            if kind == "probability":
                best = 1 / ((full - best) * self.temperature).exp_().sum(0)
            if threshold is not None:
                ids[best < threshold] = void
            masks.append(ids.to(torch.int32))
            confidences.append(best)
        return Decoded(torch.cat(masks), torch.cat(confidences) if kind else None)


def _hw(scores: Tensor) -> Size:
    return scores.shape[-2], scores.shape[-1]


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


class Segmenter(nn.Module):
    """A model, words and settings. A CLIP: training-free segmentation (MaskCLIP and its relatives).

    A trained model starts with its own words. As a module it gives scores, see `forward`; `segment` does the rest.
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
        super().__init__()
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
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), float RGB in 0..1 on the model's device -> scores (B, K, h, w).

        K are `embeddings.classes`. One network input each, at the size given: no resize, windows, refinement or
        background. Differentiable.
        Raises UserError for images of another rank, type, range or device, and without classes.
        """
        self._check(images)
        mean, std = (
            images.new_tensor(v)[:, None, None] for v in (self.encoder.stats.mean, self.encoder.stats.std)
        )
        features = self.encoder.encode((images - mean) / std)
        return self.embeddings.reduce(self.encoder.scores(features, self.embeddings.matrix))

    def _check(self, images: Tensor) -> None:
        if images.dim() != 4 or images.shape[1] != 3:
            raise UserError(
                f"images of shape {tuple(images.shape)} are no batch of pictures; give (B, 3, H, W)"
            )
        if not images.is_floating_point():
            raise UserError(
                f"images of {images.dtype} are not understood; give floats in 0..1, divided by 255"
            )
        if images.device != self.clip.device:
            raise UserError(
                f"the images are on {images.device}, the model on {self.clip.device}; move one of them"
            )
        if not torch.compiler.is_compiling() and not (
            images.detach().amin() >= 0 and images.detach().amax() <= 1
        ):
            raise UserError(
                "images have values beyond 0..1; divide by 255, and do not normalize: that is done here"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the word vectors, which stay float32, along with the weights."""
        super()._apply(fn, recurse)
        if self._embeddings is not None:
            matrix = self._embeddings.matrix
            self._embeddings = replace(self._embeddings, matrix=fn(matrix).to(matrix.dtype))
        return self

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

    @overload
    def segment(self, picture: "Picture | Encoded", *, confidence: bool = False) -> Segmentation: ...
    @overload
    def segment(
        self,
        picture: "list[Any] | tuple[Any, ...] | Iterator[Any]",
        *,
        confidence: bool = False,
        batch_size: int | None = None,
    ) -> Generator[Segmentation, None, None]: ...
    def segment(
        self,
        picture: "Picture | Encoded | list[Any] | tuple[Any, ...] | Iterator[Any]",
        *,
        confidence: bool = False,
        batch_size: int | None = None,
    ) -> Segmentation | Generator[Segmentation, None, None]:
        """The mask of a picture, encoded before or not; `confidence`: also the winner's, per pixel.

        A list, tuple or iterator of pictures gives their masks lazily and in order, through the engine: read ahead,
        `batch_size` of one size encoded together (None: several on a GPU, one on a CPU).

        Raises UserError for what is no picture, where its turn comes, and for a picture that was encoded by another
        model or under settings that do not fit.
        """
        if isinstance(picture, list | tuple | Iterator) and not hasattr(
            picture, "read"
        ):  # files are iterators, too
            return self._many(picture, batch_size, confidence)
        decoding = self.decoding(cast("Picture | Encoded", picture))
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
            temperature=None if self.settings.refine.ks else decoding.temperature,
        )

    def _many(
        self, pictures: Iterable[Picture], batch_size: int | None, confidence: bool
    ) -> Generator[Segmentation, None, None]:
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

    @torch.inference_mode()
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
