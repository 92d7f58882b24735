"""DenseCLIP (Rao et al., CVPR 2022): text side, context-aware prompting, score maps, the segmenter;
and how one is made from a CLIP, and its groups of parameters.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseclip.clip import Clip
from denseclip.clip.build import text_tower
from denseclip.clip.clip import Tokenize, tokenizer_for
from denseclip.clip.transformer import TextTransformer, resize_positions
from denseclip.clip.weights import load_weights
from denseclip.data.datasets import ignore_index
from denseclip.errors import UserError
from denseclip.models.config import DenseClipConfig
from denseclip.models.encoders import Encoded, Encoder, Shapes, make_encoder
from denseclip.models.fpn import ContextDecoder, Fpn, SemanticFpnHead, resize


def pixel_cross_entropy(logits: Tensor, labels: Tensor, *, all_pixels: bool = False) -> Tensor:
    """Cross-entropy of logits (B, K, h, w), resized bilinearly, with labels (B, H, W) int64, see `ignore_index`.

    The mean over the pixels that count, 0 where there are none; `all_pixels`: the sum is divided by their number
    with the ignored ones (the official quirk).
    """
    full = resize(logits.float(), (labels.shape[1], labels.shape[2]))  # (B, K, H, W)
    ignored = ignore_index(logits.shape[1])
    total = F.cross_entropy(full, labels, ignore_index=ignored, reduction="sum")
    count = labels.numel() if all_pixels else labels.ne(ignored).sum().clamp_min(1)
    return total / count


class ClassTexts(nn.Module):
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
        """(B, K, D) from contexts (B, N, W), not normalized."""
        if self.training or torch.is_grad_enabled():
            return encoder(self.tokens, contexts)
        state = (_autocast(contexts.device.type), *map(_state, (contexts, *encoder.parameters())))
        if self._kept is None or self._kept[0] != state:
            self._kept = state, encoder(self.tokens, contexts)
        return self._kept[1]

    def train(self, mode: bool = True) -> "ClassTexts":
        """Training mode forgets the embeddings."""
        self._kept = None if mode else self._kept
        return super().train(mode)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "ClassTexts":
        self._kept = None  # a new device or precision
        return super()._apply(fn, recurse)


@dataclass(frozen=True)
class TextGuidedFeatures:
    """What words make of a batch of pictures.

    maps: four feature maps, the score map joined to one of them. scores: cosines (B, K, h, w) of every cell and
    word. text: embeddings of the words for these pictures (B, K, D), before normalization. Both None without
    language.
    """

    maps: tuple[Tensor, ...]
    scores: Tensor | None = None
    text: Tensor | None = None


class DenseCLIPBase(nn.Module):
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
        config, text, embed_dim = self.config, self.shapes.text, self.shapes.embed_dim
        assert text is not None
        self.text_encoder = text_tower(text, embed_dim, self.shapes.quick_gelu)
        width = self.text_encoder.width
        self.contexts = nn.Parameter(torch.empty(1, config.contexts, width))
        std = 1.0 if config.official else 0.02
        nn.init.trunc_normal_(self.contexts, std=std, a=-2 * std, b=2 * std)
        if config.prompting != "none":
            self.context_decoder = ContextDecoder(
                embed_dim,
                embed_dim if config.prompting == "post" else width,
                width=config.decoder_width,
                heads=config.decoder_heads,
                layers=config.decoder_layers,
                dropout=config.decoder_dropout,
            )
        if config.prompting == "post":
            self.gamma = nn.Parameter(torch.full((embed_dim,), config.gamma))
        if not config.official:
            self.freeze_text_encoder()

    def freeze_text_encoder(self) -> None:
        """The text encoder learns nothing any more; the contexts still learn through it."""
        self.text_encoder.requires_grad_(False)

    @property
    def map_channels(self) -> tuple[int, ...]:
        """Channels of the four maps as the neck gets them."""
        channels = list(self.backbone.channels)
        if self.config.language:
            channels[self.level] += len(self.classes)
        return tuple(channels)

    def words_for(self, names: Sequence[str]) -> ClassTexts:
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
        return ClassTexts(names, tokens[:, :length].to(like)).train(self.training)

    def forward_features(self, images: Tensor) -> TextGuidedFeatures:
        """Images (B, 3, H, W), normalized as for the CLIP -> maps for the neck, score map, embeddings."""
        return self.guided_features(self.backbone(images))

    def guided_features(self, encoded: Encoded) -> TextGuidedFeatures:
        """The same from what the backbone gave."""
        if not self.config.language:
            return TextGuidedFeatures(encoded.maps)
        scores, text = self.scores(encoded, self.words)
        joined = scores / self.config.tau if self.config.score_logits else scores
        maps = list(encoded.maps)
        maps[self.level] = torch.cat([maps[self.level], joined.to(maps[self.level].dtype)], dim=1)
        return TextGuidedFeatures(tuple(maps), scores, text)

    def scores(self, encoded: Encoded, words: ClassTexts) -> tuple[Tensor, Tensor]:
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


@dataclass(frozen=True)
class DenseClipOutput:
    """features: what the neck got. pyramid: what it gave. logits: (B, K, H / 4, W / 4)."""

    features: TextGuidedFeatures
    pyramid: tuple[Tensor, ...]
    logits: Tensor


class DenseClipSegmenter(DenseCLIPBase):
    """Backbone and words, FPN, Semantic FPN head (section 3); with `language=False` the CLIP baseline."""

    def __init__(
        self,
        config: DenseClipConfig,
        shapes: Shapes,
        classes: Sequence[str],
        tokenize: Tokenize | None = None,
    ) -> None:
        super().__init__(config, shapes, classes, tokenize)
        self.neck = Fpn(self.map_channels, config.fpn_channels)
        self.decode_head = SemanticFpnHead(config.fpn_channels, len(classes), dropout=config.head_dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalized -> logits (B, K, h, w) at about stride 4."""
        return self.run(images).logits

    def run(self, images: Tensor) -> DenseClipOutput:
        """Images (B, 3, H, W), normalized -> logits and all that they come from."""
        features = self.forward_features(images)
        pyramid = self.neck(features.maps)
        return DenseClipOutput(features, pyramid, self.decode_head(pyramid))

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) and labels (B, H, W) int64, see `ignore_index` -> {"decode", "aux"}, to be summed.

        "aux" is the pixel-text loss on the score map (equation 6), weighted; absent without language or weight.
        """
        output, all_pixels = self.run(images), self.config.official
        losses = {"decode": pixel_cross_entropy(output.logits, labels, all_pixels=all_pixels)}
        scores = output.features.scores
        if scores is not None and self.config.aux_weight:
            aux = pixel_cross_entropy(scores / self.config.tau, labels, all_pixels=all_pixels)
            losses["aux"] = self.config.aux_weight * aux
        return losses

    def with_words(self, names: Sequence[str]) -> "ScoreMapModel":
        """The score map of this model for other words; it shares the weights and follows their changes."""
        return ScoreMapModel(self, names)


class ScoreMapModel(nn.Module):
    """A trained model asked for other words: its score map, without the head that knows its own classes alone."""

    def __init__(self, model: DenseCLIPBase, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.words = model, model.words_for(names)
        self.classes = tuple(names)
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, K, h, w) = cosine / tau, at the stride of z."""
        scores, _ = self.model.scores(self.model.backbone(images), self.words)
        return scores / self.model.config.tau


class FixedTexts(nn.Module):
    """In place of `ClassTexts`: their embeddings, whatever the text encoder has become."""

    kept: Tensor

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept)  # (1, K, D)

    def embeddings(self, encoder: TextTransformer, contexts: Tensor) -> Tensor:
        """(1, K, D), not normalized."""
        del encoder, contexts
        return self.kept


@torch.no_grad()
def freeze_text(model: DenseClipSegmenter, names: Sequence[str] | None = None) -> nn.Module:
    """A copy that gives what `model` gives, or for other `names` its score map, and holds no text encoder.

    With pre-model prompting the text encoder stays, because it runs on every picture.
    """
    copied = deepcopy(model)
    network = copied if names is None else copied.with_words(names)
    if not model.config.language or model.config.prompting == "pre":
        return network
    words = copied.words if names is None else copied.words_for(names)
    network.words = FixedTexts(words.embeddings(copied.text_encoder, copied.contexts))  # type: ignore[assignment]
    if names is not None:
        copied.words, copied.neck, copied.decode_head = nn.Identity(), nn.Identity(), nn.Identity()  # type: ignore[assignment]
    copied.text_encoder = nn.Identity()  # type: ignore[assignment]
    return network


State = dict[str, Tensor]
TIMM_SIZE = 512  # pixels, of a new attention pool when no resolution is given


def build_denseclip(
    config: DenseClipConfig,
    source: Clip | Shapes,
    classes: Sequence[str],
    *,
    tokenize: Tokenize | None = None,
) -> DenseClipSegmenter:
    """A DenseCLIP for these classes.

    source: the CLIP whose weights it starts from (batch norms not folded), or the sizes of a model whose weights
    are loaded afterwards. tokenize: names -> tokens (K, L), padded with zeros; default: that of the CLIP.

    Raises UserError for what does not fit together.
    """
    shapes = shapes_for(config, source) if isinstance(source, Clip) else source
    if tokenize is None and shapes.text is not None:
        tokenize = source.tokenizer if isinstance(source, Clip) else tokenizer_for(shapes.text, "this model")
    model = DenseClipSegmenter(config, shapes, classes, tokenize)
    if isinstance(source, Clip):
        start_from(model, source)
    return model


def shapes_for(config: DenseClipConfig, clip: Clip) -> Shapes:
    """The sizes of a model that starts from this CLIP."""
    shapes = Shapes.of_clip(clip, language=config.language)
    if config.backbone != "clip":
        timm = {"timm_model_name": config.backbone.removeprefix("timm:"), "image_size": TIMM_SIZE}
        shapes = replace(shapes, vision=timm)
    return shapes.with_resolution(config.resolution)


def start_from(model: DenseCLIPBase, clip: Clip) -> None:
    """Load the CLIP's weights, every one accounted for; what it lacks keeps its initial values."""
    if model.config.backbone == "clip":
        image = _floats(clip.visual)
        if "bn1.running_mean" not in image and "layer1.0.conv1.weight" in image:
            raise UserError(f"{clip.name}: its batch norms are folded; pass the CLIP as load_clip returns it")
        unused = () if model.config.language else ("attnpool.", "ln_post.", "proj")
        _load(model.backbone, image, clip.name, new=model.backbone.new_parameters, unused=unused)
    if model.config.language:
        text = _floats(clip.text)
        if "text_projection" not in text:
            raise UserError(
                f"{clip.name}: its text tower does not end with a plain matrix; take another CLIP"
            )
        _load(model.text_encoder, text, clip.name)


def _load(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    new: tuple[str, ...] = (),
    unused: tuple[str, ...] = (),
) -> None:
    own = module.state_dict()
    given = {n: _fitted(t, own.get(n)) for n, t in state.items() if not n.startswith(unused)}
    load_weights(module, given, source, "take another CLIP", new=new)


def _fitted(tensor: Tensor, own: Tensor | None) -> Tensor:
    """A position table of another grid is resized; nothing else may differ in size."""
    if own is None or tensor.ndim != 2 or tensor.shape == own.shape:
        return tensor
    side = isqrt(len(own) - 1)
    return resize_positions(tensor, (side, side), "bilinear") if tensor.shape[1] == own.shape[1] else tensor


def _floats(tower: nn.Module) -> State:
    return {n: t.float() if t.is_floating_point() else t for n, t in tower.state_dict().items()}


# Official custom keys, longest first: the first that is part of a name decides. (rate, weight decay) factors.
OFFICIAL_RULES: tuple[tuple[str, float, float], ...] = (
    ("text_encoder", 0.0, 1.0),
    ("backbone", 0.1, 1.0),
    ("norm", 1.0, 0.0),
)


@dataclass(frozen=True)
class Treatment:
    """How a parameter learns. rate, decay: factors on the optimizer's values. key: the official rule that fits."""

    rate: float
    decay: float
    key: str | None = None


def treatments(model: DenseCLIPBase) -> dict[str, Treatment]:
    """Every parameter that learns, by name.

    Official: by `OFFICIAL_RULES`, the text encoder with rate 0. Ours: pretrained parameters of the backbone at a
    tenth of the rate, all others at the full one; vectors (norms, biases, gamma) do not decay.
    """
    rule = _official if model.config.official else _ours
    return {
        n: rule(n, p.ndim, model.backbone.new_parameters)
        for n, p in model.named_parameters()
        if p.requires_grad
    }


def param_groups(
    model: DenseCLIPBase, *, lr: float = 1e-4, weight_decay: float = 1e-4
) -> list[dict[str, Any]]:
    """Groups for `torch.optim.AdamW`: "params", "names", "lr", "weight_decay", and "rate", the factor in "lr"."""
    parameters = dict(model.named_parameters())
    grouped: dict[tuple[float, float], list[str]] = defaultdict(list)
    for name, how in treatments(model).items():
        grouped[how.rate, how.decay].append(name)
    return [
        {
            "params": [parameters[name] for name in names],
            "names": names,
            "rate": rate,
            "lr": lr * rate,
            "weight_decay": weight_decay * decay,
        }
        for (rate, decay), names in grouped.items()
    ]


def _official(name: str, dimensions: int, fresh: tuple[str, ...]) -> Treatment:
    del dimensions, fresh
    for key, rate, decay in OFFICIAL_RULES:
        if key in name:
            return Treatment(rate, decay, key)
    return Treatment(1.0, 1.0)


def _ours(name: str, dimensions: int, fresh: tuple[str, ...]) -> Treatment:
    inside = name.removeprefix("backbone.")
    pretrained = inside != name and not inside.startswith(fresh)
    return Treatment(0.1 if pretrained else 1.0, 1.0 if dimensions > 1 else 0.0)
