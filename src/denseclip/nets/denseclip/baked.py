"""DenseCLIP with its words as constants, for files that run elsewhere."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from denseclip.clip.model import TextTransformer
from denseclip.nets.denseclip.segmenter import DenseClipSegmenter


class FixedWords(nn.Module):
    """In place of `Words`: their embeddings, whatever the text encoder has become."""

    kept: Tensor

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept)  # (1, K, D)

    def embeddings(self, encoder: TextTransformer, contexts: Tensor) -> Tensor:
        """(1, K, D), not normalised."""
        del encoder, contexts
        return self.kept


@torch.no_grad()
def baked(model: DenseClipSegmenter, names: Sequence[str] | None = None) -> nn.Module:
    """A copy that gives what `model` gives, or for other `names` its score map, and holds no text encoder.

    With pre-model prompting the text encoder stays, because it runs on every picture.
    """
    copied = deepcopy(model)
    network = copied if names is None else copied.with_words(names)
    if not model.config.language or model.config.prompting == "pre":
        return network
    words = copied.words if names is None else copied.words_for(names)
    network.words = FixedWords(words.embeddings(copied.text_encoder, copied.contexts))  # type: ignore[assignment]
    if names is not None:
        copied.words, copied.neck, copied.decode_head = nn.Identity(), nn.Identity(), nn.Identity()  # type: ignore[assignment]
    copied.text_encoder = nn.Identity()  # type: ignore[assignment]
    return network
