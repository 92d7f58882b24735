"""What stands behind a Segmenter: a CLIP, or a network that was trained."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from denseclip.clip import Clip, ImageStats
from denseclip.errors import UserError
from denseclip.segment.features import DenseEncoder, DenseFeatures
from denseclip.segment.options import DenseOptions
from denseclip.text import ClassEmbeddings, ClassPrompts, EmbeddingCache, embed_classes

if TYPE_CHECKING:
    from denseclip.segment.settings import Settings


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
