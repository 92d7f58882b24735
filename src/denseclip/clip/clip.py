"""One CLIP: its two towers, its tokenizer, and what one must know to feed it."""

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from denseclip.clip.model import ResNet, TextTransformer, VisionTransformer
from denseclip.clip.tokenizer import Tokenizer


@dataclass(frozen=True)
class ImageStats:
    """Mean and standard deviation of R, G, B, for pixels in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


OPENAI_STATS = ImageStats((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class Clip(nn.Module):
    """A CLIP with weights, frozen and in eval mode. Made by `load_clip`, never with random weights.

    name: what the user asked for. visual, text: the towers. stats: how pixels are normalized. image_size:
    native side in pixels. embed_dim: D. logit_scale: factor on cosines, e.g. 100.0. logit_bias: what is added
    before a sigmoid, of those that were trained with one (SigLIP). recommended: options of `denseclip.load` that
    serve these weights best, by the word of who trained them.
    """

    def __init__(
        self,
        name: str,
        visual: VisionTransformer | ResNet,
        text: TextTransformer,
        tokenizer: Tokenizer,
        *,
        stats: ImageStats,
        image_size: int,
        embed_dim: int,
        logit_scale: float,
        logit_bias: float | None = None,
        recommended: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.visual = visual
        self.text = text
        self.tokenizer = tokenizer
        self.stats = stats
        self.image_size = image_size
        self.embed_dim = embed_dim
        self.logit_scale = logit_scale
        self.logit_bias = logit_bias
        self.recommended = dict(recommended or {})
        self.requires_grad_(False).eval()

    @property
    def quick_gelu(self) -> bool:
        """Whether both towers use QuickGELU (OpenAI's weights do), else exact GELU."""
        return self.text.quick_gelu

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.text.positional_embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights (batch norms of ResNets are always float32)."""
        return self.text.positional_embedding.dtype

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over names, shapes and float32 bytes of all weights and over how they are used.

        The same for the same weights from any file format, device and (after `to`) precision: it keys caches.
        """
        visual, text = self.visual, self.text
        image_heads = visual.pool.heads if isinstance(visual, ResNet) else visual.heads
        used: tuple[Any, ...] = (self.quick_gelu, image_heads, text.heads, text.pool, text.causal)
        if any(getattr(part, "approximate", "none") == "tanh" for part in self.modules()):
            used += ("tanh",)
        weights = {n: t for n, t in sorted(self.state_dict().items()) if t.is_floating_point()}
        image_first = sorted(weights, key=lambda name: name.startswith("text."))
        return fingerprint_of({name: weights[name] for name in image_first}, repr(used))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if fn(torch.empty(0, dtype=self.dtype, device=self.device)).dtype != self.dtype:
            _ = self.fingerprint  # before any rounding
        return super()._apply(fn, recurse)

    def folded(self) -> "Clip":
        """A copy for inference only whose batch norms are part of the convolutions; itself for ViTs.

        Equal up to rounding. Fold before going to bfloat16: the products are then rounded once.
        """
        if not isinstance(self.visual, ResNet):
            return self
        _ = self.fingerprint  # of the weights as they were given
        folded = copy.copy(self)
        folded._modules = {**self._modules, "visual": self.visual.folded()}
        return folded

    def token_lengths(self, sentences: Sequence[str]) -> list[int]:
        """Tokens of each sentence, start and end included, before the cut at `text.context_length`."""
        return self.tokenizer.lengths(sentences)

    @torch.no_grad()
    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Sentences -> (N, D), not normalized. All in one batch: the caller chunks."""
        assert not isinstance(sentences, str), "pass a list of sentences"
        tokens = self.tokenizer(sentences)  # (N, L)
        if self.text.causal and self.text.pool != "last" and len(tokens):
            tokens = tokens[:, : int(self.text.ends(tokens).max()) + 1]  # nothing looks beyond the last end
        return self.text(tokens.to(self.device))

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """Plain CLIP: images (B, 3, S, S), S = `image_size`, `stats` applied -> (B, D), not normalized."""
        assert images.shape[-2:] == (self.image_size, self.image_size), tuple(images.shape)
        return self.visual(images.to(self.device, self.dtype))

    def describe(self) -> str:
        """One line: towers, sizes, activation, statistics, precision."""
        millions = sum(p.numel() for p in self.parameters()) / 1e6
        vit = isinstance(self.visual, VisionTransformer)
        kind, shape = ("ViT", f"patch {self.visual.patch_size}") if vit else ("ResNet", "stride 32")
        mean = ", ".join(f"{value:.4g}" for value in self.stats.mean)
        return (
            f"{self.name}: {kind}, {shape}, {self.image_size} px, embedding {self.embed_dim}, "
            f"{'QuickGELU' if self.quick_gelu else 'GELU'}, mean {mean}, {millions:.1f} M parameters, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        )


def fingerprint_of(state: Mapping[str, Tensor], used: str = "") -> str:
    """Hex SHA-256 over names, shapes and float32 bytes of weights, in this order, and over how they are used."""
    digest = hashlib.sha256(used.encode())
    for name, tensor in state.items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy()).data)
    return digest.hexdigest()
