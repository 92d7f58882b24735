"""Words guide the features: text side, prompting and score maps, for segmentation and detection alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseclip.clip.model import TextTransformer
from denseclip.clip.tokenizer import Tokenize
from denseclip.errors import UserError
from denseclip.nets.denseclip.config import DenseClipConfig
from denseclip.nets.denseclip.context_decoder import ContextDecoder
from denseclip.nets.denseclip.encoders import Encoded, Encoder, make_encoder
from denseclip.nets.denseclip.shapes import Shapes, TextShape


class Words(nn.Module):
    """Class names with their tokens and, at inference, their embeddings, which are computed once.

    Embeddings are kept while the module is in eval mode and gradients are off, and are made anew after any
    change of the weights in place, a new state dict, a move, or a spell in training mode.
    """

    tokens: Tensor

    def __init__(self, names: Sequence[str], tokens: Tensor) -> None:
        super().__init__()
        assert len(names) == len(tokens)
        self.names = tuple(names)
        self.register_buffer("tokens", tokens, persistent=False)  # (K, L)
        self._kept: tuple[Any, Tensor] | None = None

    def embeddings(self, encoder: TextTransformer, contexts: Tensor) -> Tensor:
        """(B, K, D) from contexts (B, N, W), not normalised."""
        if self.training or torch.is_grad_enabled():
            return encoder(self.tokens, contexts)
        state = (_autocast(contexts.device.type), *map(_state, (contexts, *encoder.parameters())))
        if self._kept is None or self._kept[0] != state:
            self._kept = state, encoder(self.tokens, contexts)
        return self._kept[1]

    def train(self, mode: bool = True) -> "Words":
        """Training mode forgets the embeddings."""
        self._kept = None if mode else self._kept
        return super().train(mode)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "Words":
        self._kept = None  # a new device or precision
        return super()._apply(fn, recurse)


def text_encoder(shape: TextShape, embed_dim: int) -> TextTransformer:
    """A CLIP text transformer of this shape, with initial weights."""
    return TextTransformer(
        vocabulary=shape.vocabulary,
        context_length=shape.rows,
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        hidden=shape.hidden,
        embed_dim=embed_dim,
        quick_gelu=shape.quick_gelu,
        layer_scale=shape.layer_scale,
        pool="argmax" if shape.end is None else "eos",
        eos=shape.end,
    )


@dataclass(frozen=True)
class Guidance:
    """What words make of a batch of pictures.

    maps: four feature maps, the score map joined to one of them. scores: cosines (B, K, h, w) of every cell and
    word. text: embeddings of the words for these pictures (B, K, D), before normalisation. Both None without
    language.
    """

    maps: tuple[Tensor, ...]
    scores: Tensor | None = None
    text: Tensor | None = None


class LanguageGuided(nn.Module):
    """The part that segmentation and detection share: backbone, text encoder, context decoder, score maps.

    A subclass adds its neck and heads. Parameters have the official names: `backbone.`, `text_encoder.`,
    `context_decoder.`, `contexts` (1, N, W), `gamma` (D,).
    """

    def __init__(
        self,
        config: DenseClipConfig,
        shapes: Shapes,
        classes: Sequence[str],
        tokenize: Tokenize | None = None,
    ) -> None:
        super().__init__()
        if not classes:
            raise UserError("no classes are given; name at least one")
        self.config, self.shapes, self.classes = config, shapes, tuple(classes)
        self.backbone: Encoder = make_encoder(shapes, config)
        self.level = self.backbone.score_level if config.score_level is None else config.score_level
        if config.language:
            assert shapes.text is not None and tokenize is not None
            self.tokenize = tokenize
            self._add_text()
            self.words = self.words_for(classes)

    def _add_text(self) -> None:
        config, shape, embed_dim = self.config, self.shapes.text, self.shapes.embed_dim
        assert shape is not None
        self.text_encoder = text_encoder(shape, embed_dim)
        self.contexts = nn.Parameter(torch.empty(1, config.contexts, shape.width))
        std = 1.0 if config.official else 0.02
        nn.init.trunc_normal_(self.contexts, std=std, a=-2 * std, b=2 * std)
        if config.prompting != "none":
            self.context_decoder = ContextDecoder(
                embed_dim,
                embed_dim if config.prompting == "post" else shape.width,
                width=config.decoder_width,
                heads=config.decoder_heads,
                layers=config.decoder_layers,
                dropout=config.decoder_dropout,
            )
        if config.prompting == "post":
            self.gamma = nn.Parameter(torch.full((embed_dim,), config.gamma))
        if not config.official:
            self.freeze_text()

    def freeze_text(self) -> None:
        """The text encoder learns nothing any more; the contexts still learn through it."""
        self.text_encoder.requires_grad_(False)

    @property
    def map_channels(self) -> tuple[int, ...]:
        """Channels of the four maps as the neck gets them."""
        channels = list(self.backbone.channels)
        if self.config.language:
            channels[self.level] += len(self.classes)
        return tuple(channels)

    def words_for(self, names: Sequence[str]) -> Words:
        """Other words for this model; UserError for names longer than the text encoder reads."""
        if not self.config.language:
            raise UserError("this model was made without language; words mean nothing to it")
        tokens = self.tokenize(list(names))  # (K, L)
        length = int(tokens.ne(0).nonzero()[:, 1].max()) + 1 if tokens.numel() else 0
        limit = self.text_encoder.context_length - self.config.contexts
        if length > limit:
            lengths = tokens.ne(0).sum(dim=1)
            raise UserError(
                f"{names[int(lengths.argmax())]!r} has {length - 2} tokens, this model reads {limit - 2}; use a "
                "shorter name, or load the checkpoint together with its CLIP, which reads longer ones"
            )
        like = self.contexts.device
        return Words(names, tokens[:, :length].to(like)).train(self.training)

    def guide(self, images: Tensor) -> Guidance:
        """Images (B, 3, H, W), normalised as for the CLIP -> maps for the neck, score map, embeddings."""
        return self.guided(self.backbone(images))

    def guided(self, encoded: Encoded) -> Guidance:
        """The same from what the backbone gave."""
        if not self.config.language:
            return Guidance(encoded.maps)
        scores, text = self.scores(encoded, self.words)
        joined = scores / self.config.tau if self.config.score_logits else scores
        maps = list(encoded.maps)
        maps[self.level] = torch.cat([maps[self.level], joined.to(maps[self.level].dtype)], dim=1)
        return Guidance(tuple(maps), scores, text)

    def scores(self, encoded: Encoded, words: Words) -> tuple[Tensor, Tensor]:
        """Cosines (B, K, h, w) of z and the words' embeddings (B, K, D), and those (equation 2)."""
        if self.config.prompting != "pre":
            return self.scores_of(encoded, words.embeddings(self.text_encoder, self.contexts))
        context = _tokens(encoded)
        contexts = self.context_decoder(self.contexts.expand(context.shape[0], -1, -1), context)  # (B, N, W)
        text = self.text_encoder(words.tokens, contexts)  # (B, K, D)
        return _cosines(encoded, text), text

    def scores_of(self, encoded: Encoded, text: Tensor) -> tuple[Tensor, Tensor]:
        """The same from embeddings (1, K, D) before post-model prompting."""
        context = _tokens(encoded)
        text = text.expand(context.shape[0], -1, -1)  # (B, K, D)
        if self.config.prompting == "post":
            text = text + self.gamma * self.context_decoder(text, context)
        return _cosines(encoded, text), text


def _tokens(encoded: Encoded) -> Tensor:
    """[g; z] as (B, 1 + hw, D)."""
    assert encoded.global_feature is not None and encoded.dense_feature is not None
    return torch.cat([encoded.global_feature[:, :, None], encoded.dense_feature.flatten(2)], dim=2).transpose(
        1, 2
    )


def _cosines(encoded: Encoded, text: Tensor) -> Tensor:
    assert encoded.dense_feature is not None
    local, unit = F.normalize(encoded.dense_feature.float(), dim=1), F.normalize(text.float(), dim=2)
    return torch.einsum("bdhw,bkd->bkhw", local, unit)


def _autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _state(tensor: Tensor) -> tuple[int, int]:
    """Which tensor, and how often it was written to."""
    return id(tensor), 0 if tensor.is_inference() else tensor._version
