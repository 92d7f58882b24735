"""Sentences to tokens, with open_clip's tokenizers."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from denseclip.errors import UserError

CLIP_VOCABULARY = 49408
SHORT_VOCABULARY = 8514  # the first 8,000 merges of CLIP's byte pairs: what the embedded models read
SHORT_MERGES = Path(__file__).parents[1] / "assets" / "bpe-8k.txt.gz"
Untyped: TypeAlias = Any  # a tokenizer of open_clip: the package has no types


class Tokenizer:
    """Sentences -> (N, context_length) int64, padded with zeros, cut at the end with the end token kept."""

    def __init__(self, encoder: Untyped, context_length: int) -> None:
        self._encoder = encoder
        self.context_length = context_length

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """Tokens (N, context_length) int64."""
        if not sentences:
            return torch.zeros(0, self.context_length, dtype=torch.long)
        return self._encoder(list(sentences), context_length=self.context_length)

    def lengths(self, sentences: Sequence[str]) -> list[int]:
        """Tokens of every sentence with start and end, before anything is cut off."""
        hugging_face = getattr(self._encoder, "tokenizer", None)
        if hugging_face is None:
            return [len(self._encoder.encode(sentence)) + 2 for sentence in sentences]
        clean = self._encoder.clean_fn
        return [len(hugging_face(clean(sentence)).input_ids) for sentence in sentences]


def tokenizer_for(text_config: Mapping[str, Any], name: str) -> Tokenizer:
    """The tokenizer that an open_clip `text_cfg` asks for.

    CLIP's own needs no download; any other is fetched from the Hugging Face hub and needs `transformers`.
    Raises UserError when it cannot be had.
    """
    context_length = int(text_config.get("context_length", 77))
    other = text_config.get("hf_tokenizer_name")
    if other:
        return Tokenizer(_hugging_face(str(other), dict(text_config), name), context_length)
    vocabulary = text_config.get("vocab_size", CLIP_VOCABULARY)
    if vocabulary == SHORT_VOCABULARY:
        return Tokenizer(_clip_encoder(SHORT_MERGES), context_length)
    if vocabulary < CLIP_VOCABULARY:
        raise UserError(
            f"{name}: its text tower knows {vocabulary} tokens, CLIP's tokenizer makes {CLIP_VOCABULARY}; "
            "use weights that were trained with CLIP's tokenizer"
        )
    return Tokenizer(_clip_encoder(), context_length)


@cache
def _clip_encoder(merges: Path | None = None) -> Untyped:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer() if merges is None else SimpleTokenizer(bpe_path=str(merges))


def _hugging_face(tokenizer: str, text_config: dict[str, Any], name: str) -> Untyped:
    from open_clip.tokenizer import HFTokenizer

    options = {
        **(text_config.get("tokenizer_kwargs") or {}),
        "tokenizer_mode": text_config.get("tokenizer_mode"),
    }
    try:
        return HFTokenizer(tokenizer, **options)
    except ImportError as error:
        raise UserError(
            f"{name}: its tokenizer {tokenizer!r} needs the package transformers; pip install transformers"
        ) from error
    except Exception as error:  # the hub raises many kinds, and each means that the files cannot be had
        raise UserError(
            f"{name}: its tokenizer {tokenizer!r} is not on this machine and cannot be downloaded; "
            "run once with network, or use a model with CLIP's own tokenizer, such as ViT-B-16"
        ) from error
