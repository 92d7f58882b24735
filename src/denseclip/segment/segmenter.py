"""Encode a picture once, ask for words as often as you like."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any, Self, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from denseclip.clip import Clip
from denseclip.clip.device import Precision, processor
from denseclip.data.images import Picture, as_rgb
from denseclip.errors import UserError
from denseclip.segment.attention import DenseEncoder, DenseFeatures
from denseclip.segment.decode import Prediction
from denseclip.segment.engine import Engine, default_batch
from denseclip.segment.fusion import spliced
from denseclip.segment.interface import Encoder, Model, TrainedModel, encoder_of
from denseclip.segment.resample import Ready, Size, Window, network_inputs, network_inputs_on, plan
from denseclip.segment.scoring import Decoding, Scorer
from denseclip.segment.segmentation import Segmentation
from denseclip.segment.settings import Settings
from denseclip.text import ClassEmbeddings, ClassPrompts, EmbeddingCache, embed_classes
from denseclip.text.embeddings import HEAD_START, POOL_TEMPLATES, pool, with_pool
from denseclip.text.prompts import ClassSource

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
        self._make_encoder()
        self._graphed: tuple[Any, Any] | None = None
        self._cache = cache
        self._class_prompts: ClassPrompts | None = None
        self._embeddings: ClassEmbeddings | None = None
        self._pool: ClassEmbeddings | None = None
        classes = clip.class_prompts if classes is None and isinstance(clip, TrainedModel) else classes
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
        return self.embeddings.max_over_prompts(self.encoder.scores(features, self.embeddings.matrix))

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

    @property
    def encoder(self) -> Encoder:
        """The image side of the model under the settings."""
        if isinstance(self.clip, TrainedModel):
            return self.clip
        assert self._dense is not None
        return self._dense

    def _make_encoder(self) -> None:
        encoder = encoder_of(self.clip, self.settings)
        self._dense = encoder if isinstance(encoder, DenseEncoder) else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the word vectors, which stay float32, and what the encoder has made along with the weights."""
        super()._apply(fn, recurse)
        self._make_encoder()
        if self._embeddings is not None:
            matrix = self._embeddings.matrix
            self._embeddings = replace(self._embeddings, matrix=fn(matrix).to(matrix.dtype))
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by mask id; with a background rule the first is "background"."""
        return self.settings.background.names(self.class_prompts)

    @property
    def class_prompts(self) -> ClassPrompts:
        """The classes as they were asked for, without a background; UserError while there are none."""
        if self._class_prompts is None:
            raise UserError(NO_CLASSES)
        return self._class_prompts

    @property
    def embeddings(self) -> ClassEmbeddings:
        """Unit vectors of all prompts, background words included."""
        if self._embeddings is None:
            raise UserError(NO_CLASSES)
        return self._embeddings

    def set_classes(self, classes: "ClassSource | ClassPrompts") -> None:
        """DecodeOptions for these words from now on; encoded pictures stay valid.

        Raises UserError for words that cannot be used, see `ClassPrompts.parse`.
        """
        class_prompts, background = ClassPrompts.parse(classes), self.settings.background
        background.names(class_prompts)  # refuses a second "background"
        prompts = background.prompts(class_prompts)
        embeddings = self._embed(prompts)
        self._embeddings = self._with_pool(embeddings, prompts) if background.auto else embeddings
        self._class_prompts = class_prompts

    def _with_pool(self, embeddings: ClassEmbeddings, prompts: ClassPrompts) -> ClassEmbeddings:
        if not isinstance(self.clip, Clip):
            raise UserError(
                f"{self.clip.name} is a trained model; give --background none, words or a threshold"
            )
        if self._pool is None:
            generic = ClassPrompts.parse(list(pool()))
            self._pool = embed_classes(self.clip, generic, POOL_TEMPLATES, cache=self._cache)
        return with_pool(embeddings, prompts.words, self._pool, HEAD_START / self.clip.logit_scale)

    def _embed(self, prompts: ClassPrompts) -> ClassEmbeddings:
        if isinstance(self.clip, Clip):
            return embed_classes(self.clip, prompts, self.settings.templates, cache=self._cache)
        return self.clip.embed(prompts, self.settings.templates, self._cache)

    def configure(self, **changes: Any) -> None:
        """Change fields of `Settings`.

        Encoded pictures stay valid unless what the network sees changes (dense, compat, resize, slide, scales,
        flip) or key smoothing, which needs keys, is switched on.
        """
        before, self.settings = self.settings, replace(self.settings, **changes)
        self._make_encoder()
        after = self.settings
        if self._class_prompts and (before.background, before.templates) != (
            after.background,
            after.templates,
        ):
            self.set_classes(self._class_prompts)

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

    def encode_batch(self, pictures: Sequence[Picture | Ready]) -> list[Encoded]:
        """Encode several pictures; network inputs of the same size share batches."""
        given = [one if isinstance(one, Ready) else self.ready(one) for one in pictures]
        made_by = (self.clip.fingerprint, self.settings.query())
        encoded = []
        for _, group in groupby(given, key=lambda one: one.shape):
            same = list(group)
            cuts, features = self._features(same)
            for index, ready in enumerate(same):
                parts = tuple(one.part(index) for one in features)
                encoded.append(Encoded(ready.image, tuple(cuts), parts, made_by))
        return encoded

    @torch.inference_mode()
    def _features(self, pictures: list[Ready]) -> tuple[list[Window], list[DenseFeatures]]:
        """The network inputs of pictures of one size, and the features of all pictures for each input.

        Inputs of one shape share batches, of a picture and of several.
        """
        cuts = plan(pictures[0].size, self.settings, self.encoder.stride)
        stats, device = self.encoder.stats, self.clip.device
        if not works_alone(device):
            each = [network_inputs(one.image, cuts, stats) for one in pictures]
            inputs = [torch.stack(some) for some in zip(*each, strict=True)]  # (B, 3, h, w) for each input
        else:
            inputs = network_inputs_on(device, pictures, cuts, stats)
        keys, encode = self.settings.refine.ks > 0, self._encode_on(device)
        splicing = self.settings.fusion == "features" and self.settings.composed
        features: list[DenseFeatures] = []
        for shape, group in groupby(inputs, key=lambda one: one.shape):
            batch = list(group)
            step = max(1, most_pixels(device) // (shape[0] * shape[2] * shape[3]))
            for start in range(0, len(batch), step):
                some = batch[start : start + step]
                images_in = torch.cat(some) if len(some) > 1 else some[0]
                found = encode(images_in, keys=keys, **({"raw": True} if splicing else {}))
                features += found.split(len(pictures))
        if splicing:
            assert isinstance(self.encoder, DenseEncoder)
            return spliced(self.encoder, cuts, features)
        return cuts, features

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
        if isinstance(picture, Encoded) or not works_alone(self.clip.device):
            encoded = picture if isinstance(picture, Encoded) else self.encode(cast("Picture", picture))
            decoding = self.decoding(encoded)
            return self._result(encoded.image, decoding, 0, decoding.decoded(confidence))
        return self.begin([self.ready(cast("Picture", picture))], confidence=confidence)[0]()

    def ready(self, picture: Picture) -> Ready:
        """A picture whose pixels stay as they are while it waits, even if the caller's array changes."""
        image = as_rgb(picture)
        return Ready.on(self.clip.device, np.array(image) if image is picture else image)

    def begin(
        self, pictures: Sequence[Picture | Ready], *, confidence: bool = False
    ) -> list[Callable[[], Segmentation]]:
        """Start on pictures of one size, all of it on a GPU; each call of what comes back waits for one result.

        On a CPU the pictures are encoded here and decoded by the calls, which may come from other threads.
        """
        if not works_alone(self.clip.device):
            return [partial(self.segment, one, confidence=confidence) for one in self.encode_batch(pictures)]
        given = [
            one if isinstance(one, Ready) else Ready.on(self.clip.device, as_rgb(one)) for one in pictures
        ]
        calls: list[Callable[[], Segmentation]] = []
        for _, group in groupby(given, key=lambda one: one.shape):
            same = list(group)
            cuts, features = self._features(same)
            decoding = Decoding(self._scorer, same[0].size, cuts, features, [one.image for one in same])
            if decoding.one_by_one:
                for index, one in enumerate(same):
                    alone = decoding.only(index)
                    calls.append(
                        partial(self._arrived, one.image, alone, 0, partial(alone.decoded, confidence))
                    )
                continue
            arrival = decoding.decoded(confidence, wait=False).to_host()
            calls += [
                partial(self._arrived, one.image, decoding, index, arrival) for index, one in enumerate(same)
            ]
        return calls

    def _arrived(
        self,
        image: NDArray[np.uint8],
        decoding: Decoding,
        index: int,
        arrival: Callable[[], Prediction],
    ) -> Segmentation:
        return self._result(image, decoding, index, arrival())

    def _result(
        self, image: NDArray[np.uint8], decoding: Decoding, index: int, planes: Prediction
    ) -> Segmentation:
        classes = self.settings.background.names(self.class_prompts)
        kind = np.uint8 if len(classes) <= 256 else np.int32
        found = planes.confidence
        return Segmentation(
            mask=planes.mask[index].cpu().numpy().astype(kind),  # a copy: the planes may be a batch's
            classes=classes,
            scores=decoding.scores(index),
            image=image,
            confidence=None if found is None else found[index].cpu().float().numpy().copy(),
            scored=decoding.scorer.embeddings.classes,
            heat_of=partial(decoding.heat, index=index),
            has_background=bool(self.settings.background),
            temperature=None if self.settings.refine.ks else decoding.scorer.temperature,
            bias=decoding.scorer.bias,
        )

    def _many(
        self, pictures: Iterable[Picture], batch_size: int | None, confidence: bool
    ) -> Generator[Segmentation, None, None]:
        engine = Engine(
            self.ready,
            partial(self.begin, confidence=confidence),
            lambda _, result: result(),
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
        self._check_encoded(encoded)
        return Decoding(self._scorer, encoded.size, encoded.cuts, encoded.features, [encoded.image])

    def _check_encoded(self, encoded: Encoded) -> None:
        if encoded.made_by != (self.clip.fingerprint, self.settings.query()):
            raise UserError(
                "this picture was encoded by another model or under other settings; encode it again"
            )

    def _encode_on(self, device: torch.device) -> Callable[..., DenseFeatures]:
        if device.type != "cuda":
            return self.encoder.encode
        from denseclip.segment.graphs import GraphedEncoder

        weight = next(self.clip.parameters())
        made_for = (self.encoder, weight.data_ptr(), weight.dtype)
        if self._graphed is None or self._graphed[0] != made_for:
            self._graphed = made_for, GraphedEncoder(self.encoder)
        return self._graphed[1].encode

    def __getstate__(self) -> dict[str, Any]:
        """CUDA graphs cannot be copied."""
        return super().__getstate__() | {"_graphed": None}

    @property
    def _scorer(self) -> Scorer:
        return Scorer(self.clip, self.encoder, self.embeddings, self.settings)


def works_alone(device: torch.device) -> bool:
    """Whether a device is another than the CPU: work is queued there, in batches, and pixels are prepared there."""
    return device.type != "cpu"


def most_pixels(device: torch.device) -> int:
    """Pixels of the network inputs that are encoded together, at most."""
    return 1 << (21 if device.type == "cpu" else 24)
