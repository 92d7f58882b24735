"""DenseCLIP for semantic segmentation, and its score map alone for words it was not trained with."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from denseclip.clip.tokenizer import Tokenize
from denseclip.nets.denseclip.config import DenseClipConfig
from denseclip.nets.denseclip.fpn import Fpn, SemanticFpnHead
from denseclip.nets.denseclip.guidance import Guidance, LanguageGuided
from denseclip.nets.denseclip.losses import pixel_cross_entropy
from denseclip.nets.denseclip.shapes import Shapes


@dataclass(frozen=True)
class DenseClipOutput:
    """guidance: what the neck got. pyramid: what it gave. logits: (B, K, H / 4, W / 4)."""

    guidance: Guidance
    pyramid: tuple[Tensor, ...]
    logits: Tensor


class DenseClipSegmenter(LanguageGuided):
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
        """Images (B, 3, H, W), normalised -> logits (B, K, h, w) at about stride 4."""
        return self.run(images).logits

    def run(self, images: Tensor) -> DenseClipOutput:
        """Images (B, 3, H, W), normalised -> logits and all that they come from."""
        guidance = self.guide(images)
        pyramid = self.neck(guidance.maps)
        return DenseClipOutput(guidance, pyramid, self.decode_head(pyramid))

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) and labels (B, H, W) int64, see `ignore_index` -> {"decode", "aux"}, to be summed.

        "aux" is the pixel-text loss on the score map (equation 6), weighted; absent without language or weight.
        """
        output, all_pixels = self.run(images), self.config.official
        losses = {"decode": pixel_cross_entropy(output.logits, labels, all_pixels=all_pixels)}
        scores = output.guidance.scores
        if scores is not None and self.config.aux_weight:
            aux = pixel_cross_entropy(scores / self.config.tau, labels, all_pixels=all_pixels)
            losses["aux"] = self.config.aux_weight * aux
        return losses

    def with_words(self, names: Sequence[str]) -> "WordScores":
        """The score map of this model for other words; it shares the weights and follows their changes."""
        return WordScores(self, names)


class WordScores(nn.Module):
    """A trained model asked for other words: its score map, without the head that knows its own classes alone."""

    def __init__(self, model: LanguageGuided, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.words = model, model.words_for(names)
        self.classes = tuple(names)
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, K, h, w) = cosine / tau, at the stride of z."""
        scores, _ = self.model.scores(self.model.backbone(images), self.words)
        return scores / self.model.config.tau
