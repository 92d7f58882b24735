"""From an encoded picture and words to a mask."""

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denseclip.clip import Clip
from denseclip.segment.decode import decode
from denseclip.segment.pixels import Confidence, Decoded
from denseclip.segment.refine import key_smoothing, prompt_denoising
from denseclip.segment.resample import Size, heatmaps, scores_at
from denseclip.segment.views import Composer

if TYPE_CHECKING:
    from denseclip.segment.segmenter import Encoded, Segmenter

COARSE = 8  # pixels per cell of composed scores


class Decoding:
    """The scores of an encoded picture under a segmenter's words, and what follows from them."""

    def __init__(self, segmenter: "Segmenter", encoded: "Encoded") -> None:
        self.segmenter = segmenter
        self.encoded = encoded
        self.size: Size = encoded.size
        settings = segmenter.settings
        official = settings.compat.drop_all and isinstance(segmenter.clip, Clip)
        self.temperature = 100.0 if official else segmenter.clip.logit_scale
        self.via = (encoded.cuts[0].height, encoded.cuts[0].width) if settings.compat.free_size else None

    @cached_property
    def maps(self) -> list[Tensor]:
        """Refined scores (K, h, w) of every network input."""
        return [self._refined(i) for i in range(len(self.encoded.cuts))]

    @cached_property
    def composer(self) -> Composer | None:
        """How the inputs are averaged; None for a single one."""
        return self._composer(self.size) if self.segmenter.settings.composed else None

    @torch.inference_mode()
    def decoded(self, confidence: bool) -> Decoded:
        """Mask (H, W) over the scored classes and the background, and confidence if asked for or needed."""
        background = self.segmenter.settings.background
        kind: Confidence | None = "score" if self.segmenter.settings.refine.ks else "probability"
        if not confidence and background.threshold is None:
            kind = None
        words = len(self.maps[0])
        void = 0 if background.words else words
        out = self._decode(kind, background.threshold, void)
        if (
            background.threshold is not None and not background.words
        ):  # class 0 has no scores: all others move up
            ids = out.mask.to(torch.int32) + 1
            out = Decoded(torch.where(ids == words + 1, 0, ids), out.confidence)
        return out

    def scores(self) -> Tensor:
        """Scores (K, h, w) before decoding; on a grid of `COARSE` pixels if several inputs are averaged."""
        if self.composer is None:
            return self.maps[0]
        size = (max(1, -(-self.size[0] // COARSE)), max(1, -(-self.size[1] // COARSE)))
        return self._composer(size).full(self.maps)

    def heat(self, index: int) -> NDArray[np.float32]:
        """The upsampled scores of one class, (H, W) float32."""
        if self.composer is not None:
            return self.composer.plane(self.maps, index).cpu().numpy()
        return heatmaps(self.maps[0][None], [index], self.size, via=self.via)[0, 0].cpu().numpy()

    def at(self, row: int, column: int) -> Tensor:
        """The scores (K,) at one pixel."""
        if self.composer is not None:
            return self.composer.band(self.maps, slice(row, row + 1))[:, 0, column]
        return scores_at(self.maps[0][None], torch.tensor([[row, column]]), self.size, via=self.via)[0, 0]

    def _composer(self, size: Size) -> Composer:
        """Cosines are averaged as they are, trained models' views by probability, as their tests are defined."""
        temperature = None if isinstance(self.segmenter.clip, Clip) else self.temperature
        return Composer(list(self.encoded.cuts), [_hw(one) for one in self.maps], size, temperature)

    def _refined(self, index: int) -> Tensor:
        """Cosines of one input's positions with the prompts, best prompt per class, PD, KS; (K, h, w)."""
        segmenter, dense = self.segmenter, self.encoded.features[index]
        refine, compat = segmenter.settings.refine, segmenter.settings.compat
        embeddings = segmenter.embeddings
        scores = embeddings.reduce(segmenter.encoder.scores(dense, embeddings.matrix))  # (1, K, h, w)
        if refine.pd:
            scores = prompt_denoising(
                scores, refine.pd, temperature=self.temperature, keep_best=not compat.drop_all
            )
        if refine.ks:
            assert dense.keys is not None
            scores = key_smoothing(
                scores, dense.keys, refine.ks, norm=refine.ks_norm, temperature=self.temperature
            )
            if segmenter.settings.background.threshold is not None:  # sums over neighbours -> shares
                scores = scores / scores.abs().sum(1, keepdim=True).clamp_min(1e-12)
        return scores[0]

    def _decode(self, kind: Confidence | None, threshold: float | None, void: int) -> Decoded:
        if self.composer is None:
            out = decode(
                self.maps[0][None],
                self.size,
                via=self.via,
                confidence=kind,
                temperature=self.temperature,
                threshold=threshold,
                void=void,
            )
            return out.map(lambda plane: plane[0])
        masks, confidences = [], []
        for rows in self.composer.bands(len(self.maps[0])):
            full = self.composer.band(self.maps, rows)  # (K, R, W)
            best, ids = full.max(0)
            if kind == "probability":
                best = 1 / ((full - best) * self.temperature).exp_().sum(0)
            if threshold is not None:
                ids[best < threshold] = void
            masks.append(ids.to(torch.int32))
            confidences.append(best)
        return Decoded(torch.cat(masks), torch.cat(confidences) if kind else None)


def _hw(scores: Tensor) -> Size:
    return scores.shape[-2], scores.shape[-1]
