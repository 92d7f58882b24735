"""One CLIP: its two towers, its tokenizer, and what one must know to feed it."""

import copy
import gzip
import hashlib
import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from denseclip.clip.towers import ResNet, VisionTransformer
from denseclip.clip.transformer import TextTransformer
from denseclip.errors import UserError, need

CLIP_VOCABULARY = 49408
SHORT_VOCABULARY = 8514  # the first 8,000 merges of CLIP's byte pairs: what the embedded models read
SHORT_MERGES = Path(__file__).parents[1] / "assets" / "bpe-8k.txt.gz"
CLIP_MERGES = "bpe_simple_vocab_16e6.txt.gz"  # in open_clip's package
START, END = "<start_of_text>", "<end_of_text>"
_PARTS = rf"{START}|{END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"
Untyped: TypeAlias = Any  # a tokenizer of open_clip: the package has no types
Tokenize = Callable[[Sequence[str]], Tensor]


class BytePairs:
    """CLIP's own tokenizer: lower-case words as byte pairs, merged in the order of a file (Sennrich et al., 2016)."""

    def __init__(self, merges: Path) -> None:
        import regex

        with gzip.open(merges, "rt", encoding="utf-8") as file:
            lines = file.read().splitlines()[1 : CLIP_VOCABULARY - 2 * 256 - 2 + 1]
        pairs = [tuple(line.split()) for line in lines if line]
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        rest = [byte for byte in range(256) if byte not in printable]
        letters = {byte: chr(byte) for byte in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}
        symbols = list(letters.values())
        vocabulary = [*symbols, *(s + "</w>" for s in symbols), *map("".join, pairs), START, END]
        self.ids = {symbol: number for number, symbol in enumerate(vocabulary)}
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self._letters = letters
        self._parts = regex.compile(_PARTS, regex.IGNORECASE)
        self._word = lru_cache(maxsize=1 << 16)(self._merged)

    def encode(self, sentence: str) -> list[int]:
        """Ids of a sentence, without start and end."""
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(sentence)))
        text = " ".join(text.split()).lower()
        return [number for part in self._parts.findall(text) for number in self._word(part)]

    def _merged(self, word: str) -> tuple[int, ...]:
        """Ids of one word: the neighbors of the lowest rank are merged first, everywhere."""
        if word in (START, END):
            return (self.ids[word],)
        symbols = [self._letters[byte] for byte in word.encode()]
        symbols[-1] += "</w>"
        while len(symbols) > 1:
            best = min(pairwise(symbols), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            merged: list[str] = []
            for symbol in symbols:
                if merged and (merged[-1], symbol) == best:
                    merged[-1] = merged[-1] + symbol + "\0"  # joined once: not again with the next
                else:
                    merged.append(symbol)
            symbols = [symbol.rstrip("\0") for symbol in merged]
        return tuple(self.ids[symbol] for symbol in symbols)


class Tokenizer:
    """Sentences -> (N, context_length) int64, padded with zeros, cut at the end with the end token kept."""

    def __init__(self, encoder: BytePairs | Untyped, context_length: int) -> None:
        self._encoder = encoder
        self.context_length = context_length

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """Tokens (N, context_length) int64."""
        if not sentences:
            return torch.zeros(0, self.context_length, dtype=torch.long)
        if not isinstance(self._encoder, BytePairs):
            return self._encoder(list(sentences), context_length=self.context_length)
        tokens = torch.zeros(len(sentences), self.context_length, dtype=torch.long)
        start, end = self._encoder.ids[START], self._encoder.ids[END]
        for row, sentence in zip(tokens, sentences, strict=True):
            ids = [start, *self._encoder.encode(sentence)[: self.context_length - 2], end]
            row[: len(ids)] = torch.tensor(ids)
        return tokens

    def lengths(self, sentences: Sequence[str]) -> list[int]:
        """Tokens of every sentence with start and end, before anything is cut off."""
        if isinstance(self._encoder, BytePairs):
            return [len(self._encoder.encode(sentence)) + 2 for sentence in sentences]
        clean, tokenizer = self._encoder.clean_fn, self._encoder.tokenizer
        return [len(tokenizer(clean(sentence)).input_ids) for sentence in sentences]


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
        return Tokenizer(_byte_pairs(SHORT_MERGES), context_length)
    if vocabulary < CLIP_VOCABULARY:
        raise UserError(
            f"{name}: its text tower knows {vocabulary} tokens, CLIP's tokenizer makes {CLIP_VOCABULARY}; "
            "use weights that were trained with CLIP's tokenizer"
        )
    return Tokenizer(_byte_pairs(_open_clip_folder() / CLIP_MERGES), context_length)


_byte_pairs = cache(BytePairs)


def _open_clip_folder() -> Path:
    """Where open_clip is installed; it is not imported, which costs seconds."""
    need("open_clip", "CLIP's full vocabulary")
    found = find_spec("open_clip")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent


def _hugging_face(tokenizer: str, text_config: dict[str, Any], name: str) -> Untyped:
    need("open_clip", f"the tokenizer of {name}")
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


@dataclass(frozen=True)
class ImageStats:
    """Mean and standard deviation of R, G, B, for pixels in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


OPENAI_STATS = ImageStats((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class Clip(nn.Module):
    """A CLIP with weights, frozen and in eval mode. Made by `load_clip`, never with random weights.

    name: what the user asked for. visual, text: the towers. stats: how pixels are normalized. config: their sizes in
    open_clip's form. image_size: native side in pixels. embed_dim: D. logit_scale: factor on cosines, e.g. 100.0.
    logit_bias: what is added before a sigmoid, of those that were trained with one (SigLIP). recommended: options of
    `denseclip.load` that serve these weights best, by the word of who trained them.
    """

    def __init__(
        self,
        name: str,
        visual: VisionTransformer | ResNet,
        text: TextTransformer,
        tokenizer: Tokenizer,
        *,
        stats: ImageStats,
        config: Mapping[str, Any],
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
        self.config = config
        self.image_size: int = config["vision_cfg"].get("image_size", 224)
        self.embed_dim: int = config["embed_dim"]
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
