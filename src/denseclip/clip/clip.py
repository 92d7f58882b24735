"""One CLIP: its two towers, its tokenizer, and what one must know to feed it."""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from denseclip.clip.tokens import Tokenizer
from denseclip.clip.towers import ResNetTower, TextTower, ViTTower, cast


@dataclass(frozen=True)
class ImageStats:
    """Mean and standard deviation of R, G, B, for pixels in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


OPENAI_STATS = ImageStats((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class Clip:
    """A CLIP with weights, frozen and in eval mode. Made by `load_clip`, never with random weights.

    name: what the user asked for. image, text: the towers. stats: how pixels are normalised. image_size:
    native side in pixels. embed_dim: D. logit_scale: factor on cosines, e.g. 100.0. quick_gelu: both towers
    use QuickGELU (OpenAI's weights do), else exact GELU.
    """

    def __init__(
        self,
        name: str,
        image: ViTTower | ResNetTower,
        text: TextTower,
        tokenizer: Tokenizer,
        *,
        stats: ImageStats,
        image_size: int,
        embed_dim: int,
        logit_scale: float,
    ) -> None:
        self.name = name
        self.image = image
        self.text = text
        self.tokenizer = tokenizer
        self.stats = stats
        self.image_size = image_size
        self.embed_dim = embed_dim
        self.logit_scale = logit_scale
        self.quick_gelu = text.quick_gelu

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
        image_heads = self.image.pool.heads if isinstance(self.image, ResNetTower) else self.image.heads
        used = (self.quick_gelu, image_heads, self.text.heads, self.text.pool, self.text.causal)
        digest = hashlib.sha256(repr(used).encode())
        for tower in (self.image, self.text):
            for name, tensor in sorted(tower.state_dict().items()):
                if tensor.is_floating_point():
                    digest.update(f"{name} {tuple(tensor.shape)}".encode())
                    digest.update(_bytes(tensor))
        return digest.hexdigest()

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> "Clip":
        """This CLIP on another device or in another precision; itself if nothing changes, else a copy."""
        device = torch.device(device) if device is not None else self.device
        dtype = dtype or self.dtype
        if (device.type, device.index or 0, dtype) == (self.device.type, self.device.index or 0, self.dtype):
            return self
        fingerprint = self.fingerprint  # before any rounding
        moved = copy.copy(self)
        moved.image, moved.text = copy.deepcopy(self.image), copy.deepcopy(self.text)
        for tower in (moved.image, moved.text):
            cast(tower, device, dtype)
        moved.__dict__["fingerprint"] = fingerprint
        return moved

    def folded(self) -> "Clip":
        """A copy for inference only whose batch norms are part of the convolutions; itself for ViTs.

        Equal up to rounding. Fold before going to bfloat16: the products are then rounded once.
        """
        if not isinstance(self.image, ResNetTower):
            return self
        fingerprint = self.fingerprint
        copied = copy.copy(self)
        copied.image = self.image.folded()
        copied.__dict__["fingerprint"] = fingerprint
        return copied

    def token_lengths(self, sentences: Sequence[str]) -> list[int]:
        """Tokens of each sentence, start and end included, before the cut at `text.context_length`."""
        return self.tokenizer.lengths(sentences)

    @torch.no_grad()
    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Sentences -> (N, D), not normalised. All in one batch: the caller chunks."""
        assert not isinstance(sentences, str), "pass a list of sentences"
        tokens = self.tokenizer(sentences)  # (N, L)
        if self.text.causal and self.text.pool != "last" and len(tokens):
            tokens = tokens[:, : int(self.text.ends(tokens).max()) + 1]  # nothing looks beyond the last end
        return self.text(tokens.to(self.device))

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """Plain CLIP: images (B, 3, S, S), S = `image_size`, `stats` applied -> (B, D), not normalised."""
        assert images.shape[-2:] == (self.image_size, self.image_size), tuple(images.shape)
        return self.image(images.to(self.device, self.dtype))

    def describe(self) -> str:
        """One line: towers, sizes, activation, statistics, precision."""
        millions = sum(p.numel() for tower in (self.image, self.text) for p in tower.parameters()) / 1e6
        shape = f"patch {self.image.patch_size}" if isinstance(self.image, ViTTower) else "stride 32"
        mean = ", ".join(f"{value:.4g}" for value in self.stats.mean)
        return (
            f"{self.name}: {self.image.kind}, {shape}, {self.image_size} px, embedding {self.embed_dim}, "
            f"{'QuickGELU' if self.quick_gelu else 'GELU'}, mean {mean}, {millions:.1f} M parameters, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        )


def _bytes(tensor: Tensor) -> memoryview:
    return np.ascontiguousarray(tensor.to("cpu", torch.float32).numpy()).data
