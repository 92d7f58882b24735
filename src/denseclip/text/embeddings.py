"""Words to unit vectors: templates, text tower, mean; and back from prompts to classes."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from denseclip.errors import UserError
from denseclip.text.cache import EmbeddingCache, Rows
from denseclip.text.class_prompts import ClassPrompts
from denseclip.text.templates import fill
from denseclip.text.words import LITERAL, show

BLOCK_SENTENCES = 8_192
"""Sentences whose vectors are held at a time; what bounds the memory of a large vocabulary."""


class TextSize(Protocol):
    """The part of a text tower that words need."""

    @property
    def context_length(self) -> int: ...  # noqa: D102


class TextEncoder(Protocol):
    """The part of a `Clip` that words need."""

    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def device(self) -> torch.device: ...  # noqa: D102
    @property
    def dtype(self) -> torch.dtype: ...  # noqa: D102
    @property
    def text(self) -> TextSize: ...  # noqa: D102
    def encode_text(self, sentences: Sequence[str]) -> Tensor: ...  # noqa: D102
    def token_lengths(self, sentences: Sequence[str]) -> list[int]: ...  # noqa: D102


@dataclass(frozen=True)
class ClassEmbeddings:
    """Unit vectors of the P prompts of K classes.

    `matrix` (P, D) float32, `owner` (P,) int64: the class of each prompt, never falling; `classes`: K names.
    """

    matrix: Tensor
    owner: Tensor
    classes: tuple[str, ...]

    def reduce(self, scores: Tensor) -> Tensor:
        """Scores (..., P, h, w) of prompts -> (..., K, h, w) of classes: the best prompt of each."""
        if len(self.owner) == len(self.classes):
            return scores
        shape = (*scores.shape[:-3], len(self.classes), *scores.shape[-2:])
        index = self.owner.to(scores.device)[:, None, None].expand_as(scores)  # (..., P, h, w)
        return scores.new_zeros(shape).scatter_reduce(-3, index, scores, "amax", include_self=False)


def ensemble(per_template: Tensor) -> Tensor:
    """Text features (K, T, D) under T templates -> unit vectors (K, D).

    Each is normalised, their mean is normalised again. Source: MaskCLIP, section "text embeddings".
    """
    return F.normalize(F.normalize(per_template, dim=-1).mean(dim=1), dim=-1)


def embed_classes(
    clip: TextEncoder,
    ontology: ClassPrompts,
    templates: Sequence[str],
    *,
    cache: EmbeddingCache | None,
    chunk: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> ClassEmbeddings:
    """Embed every prompt of an ontology under all templates, on the CLIP's device, in float32.

    Prompts in `cache` cost nothing. The others run through the text tower `chunk` sentences at a time, those
    of similar length together, so that little padding is computed. `progress(done, all)` counts them.

    Raises:
        UserError: a sentence has more tokens than the text tower takes, or the precision overflows.
    """
    assert templates
    group = _group(clip, templates)
    rows = cache.load(group) if cache else {}
    missing = [word for word in ontology.words if _row_key(word) not in rows]
    lengths = [_token_lengths(clip, ontology, word, templates) for word in missing]
    size = max(1, BLOCK_SENTENCES // len(templates))
    for start in range(0, len(missing), size):
        some = slice(start, start + size)
        new = _embed(clip, missing[some], templates, np.stack(lengths[some]), chunk)
        rows |= new
        if cache:
            cache.store(group, new)
        if progress:
            progress(start + len(new), len(missing))
    matrix = torch.from_numpy(np.stack([rows[_row_key(word)] for word in ontology.words]))  # (P, D)
    owner = torch.tensor(ontology.owner, dtype=torch.int64)
    return ClassEmbeddings(matrix.to(clip.device), owner.to(clip.device), ontology.classes)


def _token_lengths(
    clip: TextEncoder, ontology: ClassPrompts, word: str, templates: Sequence[str]
) -> np.ndarray:
    """Tokens of a prompt's sentences, (T,)."""
    lengths = np.array(clip.token_lengths(_sentences(word, templates)), np.int32)
    if lengths.max() > clip.text.context_length:
        name = ontology.classes[ontology.owner[ontology.words.index(word)]]
        raise UserError(
            f"class {show(name)}: prompt {show(word)} makes a sentence of {lengths.max()} tokens, "
            f"the text tower reads {clip.text.context_length}; shorten it"
        )
    return lengths


def _embed(
    clip: TextEncoder, words: Sequence[str], templates: Sequence[str], lengths: np.ndarray, chunk: int
) -> Rows:
    """Unit rows of some prompts, which fit into memory under all templates at once; `lengths` (K, T)."""
    sentences = [sentence for word in words for sentence in _sentences(word, templates)]  # K * T
    place: dict[str, int] = {}  # each sentence once, from short to long
    for i in np.argsort(lengths, axis=None, kind="stable"):
        place.setdefault(sentences[i], len(place))
    unique = list(place)
    index = torch.tensor([place[sentence] for sentence in sentences]).view(len(words), -1)  # (K, T)
    with torch.inference_mode():
        parts = [clip.encode_text(unique[i : i + chunk]).float() for i in range(0, len(unique), chunk)]
        features = torch.cat(parts)  # (U, D)
        matrix = ensemble(features[index.to(features.device)]).cpu().numpy()  # (K, D)
    if not np.isfinite(matrix).all():
        raise UserError(f"the text tower overflows in {str(clip.dtype).removeprefix('torch.')}; use float32")
    return {_row_key(word): row for word, row in zip(words, matrix, strict=True)}


def _sentences(word: str, templates: Sequence[str]) -> list[str]:
    """One sentence a template; a literal is all of them, so that its mean is itself."""
    if word.startswith(LITERAL):
        return [word.removeprefix(LITERAL).strip()] * len(templates)
    return [fill(template, word) for template in templates]


def _group(clip: TextEncoder, templates: Sequence[str]) -> str:
    """Everything but the word that a row depends on."""
    parts = ("1", clip.fingerprint, str(clip.dtype), list(templates))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _row_key(word: str) -> bytes:
    return hashlib.sha256(word.encode()).digest()
