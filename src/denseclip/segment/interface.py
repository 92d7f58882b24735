"""What a Segmenter holds: a CLIP made dense, or a trained model with the same interface."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from denseclip.clip import Clip, ImageStats
from denseclip.clip.clip import fingerprint_of
from denseclip.clip.towers import ResNet
from denseclip.errors import UserError
from denseclip.segment.attention import DenseEncoder, DenseFeatures
from denseclip.segment.settings import NONE, DenseOptions, Settings
from denseclip.text import ClassEmbeddings, ClassPrompts, EmbeddingCache
from denseclip.text.prompts import key


class TrainedModel(nn.Module):
    """A trained network, frozen, that answers for its own words, and for others as well as it can.

    name: what the user asked for. class_prompts: its own classes. stats: how pixels are normalized. logit_scale:
    factor on scores in the soft-max of a probability. stride: sides of network inputs are made a multiple of it.
    recommended: see `Clip`; its masks are left as it was trained to make them.
    """

    recommended: ClassVar[Mapping[str, str]] = MappingProxyType({"refine": NONE})

    def __init__(
        self,
        name: str,
        model: nn.Module,
        class_prompts: ClassPrompts,
        stats: ImageStats,
        *,
        logit_scale: float = 1.0,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.name, self.class_prompts, self.stats = name, class_prompts, stats
        self.logit_scale, self.stride = logit_scale, stride
        self.model = model
        self.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights."""
        return next(self.parameters()).dtype

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over names, shapes and float32 bytes of all weights."""
        return fingerprint_of(dict(sorted(self.model.state_dict().items())))

    @property
    def kind(self) -> str:
        """In a few words, for `describe`."""
        raise NotImplementedError

    def describe(self) -> str:
        """One line, the name first."""
        millions = sum(p.numel() for p in self.parameters()) / 1e6
        return (
            f"{self.name}: {self.kind}, {len(self.class_prompts.classes)} classes, {millions:.1f} M parameters, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        )

    def own_places(self, class_prompts: ClassPrompts) -> list[int | None]:
        """Which of its own classes each word is."""
        own = {key(name): k for k, name in enumerate(self.class_prompts.classes)}
        return [own.get(key(word)) for word in class_prompts.words]

    def embed(
        self, class_prompts: ClassPrompts, templates: Sequence[str], cache: EmbeddingCache | None
    ) -> ClassEmbeddings:
        """Rows of words; UserError for a word that it cannot look for."""
        raise NotImplementedError

    def encode(self, images: Tensor, *, keys: bool = False) -> DenseFeatures:
        """Images (B, 3, H, W), normalized by `stats` -> features for `scores`; there are no keys."""
        raise NotImplementedError

    def scores(self, features: DenseFeatures, matrix: Tensor) -> Tensor:
        """Scores (B, P, h, w) of every position under the P rows of `matrix`, which `embed` made."""
        raise NotImplementedError

    def network(
        self, class_prompts: ClassPrompts | None, templates: Sequence[str]
    ) -> tuple[nn.Module, tuple[str, ...]]:
        """Normalized images (B, 3, H, W) to logits (B, K, h, w) as one module, and its K class names."""
        raise NotImplementedError


Encoder = DenseEncoder | TrainedModel
Model = Clip | TrainedModel


def encoder_of(model: Model, settings: Settings) -> Encoder:
    """A CLIP made dense, or a trained model's own image side; UserError for settings that go with a CLIP only."""
    if isinstance(model, Clip):
        if settings.fusion == "features" and isinstance(model.visual, ResNet):
            raise UserError(f"{model.name} is a ResNet, and fusion=features is for ViTs; leave it out")
        return DenseEncoder(model, settings.dense, settings.compat)
    if settings.dense != DenseOptions():
        raise UserError(
            f"{model.name} is a trained model, it has no last block to vary; leave out the preset"
        )
    if settings.fusion == "features":
        raise UserError(f"{model.name} is a trained model, its windows meet in scores; leave out fusion")
    if settings.refine.ks:
        raise UserError(f"{model.name} is a trained model, it has no keys; leave out key smoothing")
    return model
