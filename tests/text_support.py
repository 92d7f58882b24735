"""A text encoder without weights: what a sentence becomes depends on its words and nothing else."""

import hashlib
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor


class FakeClip:
    """Counts what it encodes; a token is a word, plus start and end."""

    def __init__(
        self, fingerprint: str = "f00d", dtype: torch.dtype = torch.float32, width: int = 16
    ) -> None:
        self.fingerprint = fingerprint
        self.dtype = dtype
        self.device = torch.device("cpu")
        self.text = SimpleNamespace(context_length=16)
        self.width = width
        self.calls: list[list[str]] = []

    @property
    def sentences(self) -> list[str]:
        return [sentence for call in self.calls for sentence in call]

    def token_lengths(self, sentences: Sequence[str]) -> list[int]:
        return [len(sentence.split()) + 2 for sentence in sentences]

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        self.calls.append(list(sentences))
        rows = [self.row(sentence) for sentence in sentences]
        return torch.tensor(np.stack(rows)).to(self.dtype)

    def row(self, sentence: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:8], "little")
        return np.random.default_rng(seed).standard_normal(self.width).astype(np.float32)
