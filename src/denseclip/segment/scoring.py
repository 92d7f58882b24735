"""From dense features and words to scores, and from scores to masks, heat maps and single pixels."""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from math import log

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from denseclip.clip import Clip
from denseclip.segment.attention import DenseFeatures
from denseclip.segment.decode import Confidence, Prediction, decode, probabilities
from denseclip.segment.fusion import ScoreFusion
from denseclip.segment.interface import Encoder, Model
from denseclip.segment.planes import Planes, decode_planes, decode_words
from denseclip.segment.refine import key_smoothing, prompt_denoising
from denseclip.segment.resample import Size, Window, heatmaps, resize, resized, scores_at, wide
from denseclip.segment.settings import Settings
from denseclip.text import ClassEmbeddings


def logit(probability: float) -> float:
    """What a sigmoid makes the probability of."""
    return log(probability / (1 - probability))


COARSE = 8  # pixels per cell of composed scores


@dataclass(frozen=True)
class Scorer:
    """What features are scored with: a model's image side, words, and settings."""

    model: Model
    encoder: Encoder
    embeddings: ClassEmbeddings
    settings: Settings

    @property
    def temperature(self) -> float:
        """Of the soft-max that makes probabilities of scores."""
        if self.settings.compat.logit_scale:
            return self.settings.compat.logit_scale
        official = self.settings.compat.drop_all and isinstance(self.model, Clip)
        return 100.0 if official else self.model.logit_scale

    @property
    def bias(self) -> float | None:
        """What is added before a sigmoid, if that makes probabilities: each word's by itself, without soft-max."""
        return self.model.logit_bias if isinstance(self.model, Clip) else None

    @torch.inference_mode()
    def scores(self, features: DenseFeatures) -> Tensor:
        """Scores of every position with the prompts, best prompt per class, PD, KS; (B, K, h, w)."""
        refine = self.settings.refine
        scores = self.encoder.scores(features, self.embeddings.matrix)
        if not self.settings.compat.by_word:
            scores = self.embeddings.max_over_prompts(scores)
        if refine.pd:
            keep = not self.settings.compat.drop_all
            scores = prompt_denoising(scores, refine.pd, temperature=self.temperature, keep_best=keep)
        if refine.ks:
            assert features.keys is not None
            scores = key_smoothing(
                scores, features.keys, refine.ks, norm=refine.ks_norm, temperature=self.temperature
            )
            if self.settings.background.threshold is not None:  # sums over neighbors -> shares
                scores = scores / scores.abs().sum(1, keepdim=True).clamp_min(1e-12)
        return scores


class Decoding:
    """The scores of B pictures of one size, and what follows from them.

    features: of every network input in `cuts`, of all pictures. maps: their refined scores (B, K, h, w), under
    `compat.by_word` of words. images: the pictures (H, W, 3) uint8, which PAMR follows.
    """

    def __init__(
        self,
        scorer: Scorer,
        size: Size,
        cuts: Sequence[Window],
        features: Sequence[DenseFeatures],
        images: Sequence[NDArray[np.uint8]] = (),
    ) -> None:
        self.scorer, self.size, self.cuts, self.images = scorer, size, tuple(cuts), images
        self.maps = [scorer.scores(one) for one in features]
        settings = scorer.settings
        two_steps = settings.compat.free_size and not settings.compat.one_step
        self.via = (cuts[0].height, cuts[0].width) if two_steps else None
        self.composer = self._composer(size) if settings.composed else None

    @property
    def one_by_one(self) -> bool:
        """Whether masks follow their pictures, which makes each a matter of its own."""
        settings = self.scorer.settings
        return bool(settings.refine.guided or settings.refine.pamr or settings.compat.by_word)

    def only(self, index: int) -> "Decoding":
        """The same of one picture."""
        one = copy(self)
        one.maps = [part[index : index + 1] for part in self.maps]
        one.images = self.images[index : index + 1]
        return one

    @property
    def confidence(self) -> Confidence:
        """What is known of the winner: its share of the soft-max, or after key smoothing its score."""
        return "score" if self.scorer.settings.refine.ks else "probability"

    @torch.inference_mode()
    def decoded(self, confidence: bool, *, wait: bool = True) -> Prediction:
        """Masks (B, H, W) over the scored classes and the background, and confidence if asked for or needed.

        wait: as in `decode`.
        """
        background = self.scorer.settings.background
        threshold = background.threshold
        kind = self.confidence if confidence or threshold is not None else None
        words, guided = self.maps[0].shape[1], self.scorer.settings.refine.guided
        if self.scorer.settings.compat.by_word:
            return self._by_word(threshold, confidence)
        void = 0 if background.scored else words
        if guided:
            out = self._along_edges(self._decode(None, None, void=words, wait=True), kind, threshold, void)
        else:
            out = self._decode(kind, threshold, void=void, wait=wait)
        if threshold is None or background.scored:
            return out
        ids = out.mask.to(torch.int32) + 1  # class 0 has no scores: all others move up
        return out._replace(mask=torch.where(ids == words + 1, 0, ids))

    def scores(self, index: int = 0) -> Tensor:
        """Scores (K, h, w) of a picture before decoding; on a grid of `COARSE` pixels if inputs are averaged."""
        if self.composer is None:
            return self._of_classes(self.maps[0][index])
        size = (max(1, -(-self.size[0] // COARSE)), max(1, -(-self.size[1] // COARSE)))
        return self._of_classes(self._composer(size).full(self._of(index)))

    def heat(self, name: int, index: int = 0) -> NDArray[np.float32]:
        """The upsampled scores of one class in a picture, (H, W) float32."""
        settings = self.scorer.settings
        if settings.refine.pamr or settings.compat.by_word:
            owner = self.scorer.embeddings.class_of_prompt.cpu() if settings.compat.by_word else None
            rows = torch.tensor([name]) if owner is None else (owner == name).nonzero()[:, 0]
            return self.planes(index).some(rows).amax(0).cpu().numpy()
        if self.composer is not None:
            return self.composer.plane(self._of(index), name).cpu().numpy()
        maps = self.maps[0][index : index + 1]
        return heatmaps(maps, [name], self.size, via=self.via)[0, 0].cpu().numpy()

    def at(self, row: int, column: int, index: int = 0) -> Tensor:
        """The scores (K,) at one pixel of a picture, before PAMR."""
        if self.composer is not None:
            found = self.composer.band(self._of(index), slice(row, row + 1))[:, 0, column]
        else:
            maps = self.maps[0][index : index + 1]
            found = scores_at(maps, torch.tensor([[row, column]]), self.size, via=self.via)[0, 0]
        return self._of_classes(found[:, None, None])[:, 0, 0]

    def _of_classes(self, scores: Tensor) -> Tensor:
        """Scores (K, h, w), of words under `compat.by_word` until here."""
        return (
            self.scorer.embeddings.max_over_prompts(scores) if self.scorer.settings.compat.by_word else scores
        )

    def planes(self, index: int) -> Planes:
        """The full-size scores of a picture, some classes at a time, followed by PAMR if the settings say so."""
        one, steps = self._of(index), self.scorer.settings.refine.pamr

        def maps(classes: Tensor) -> Tensor:
            some = [part[classes.to(part.device)] for part in one]
            if self.composer is None:
                return resize(wide(some[0][None]), self.size, self.via)[0]
            if self.composer.by_probability:
                return self.composer.full(one)[classes]
            return self.composer.full(some)

        guide = self._guide(index).to(one[0].device) if steps else None
        return Planes.of(maps, len(one[0]), self.size, guide, steps)

    def _guide(self, index: int) -> Tensor:
        """The picture (1, 3, H, W) that PAMR follows; in official code it went through the network's resize."""
        image, frame = self.images[index], self.cuts[0].frame
        if not self.scorer.settings.compat.free_size:
            return torch.from_numpy(image).permute(2, 0, 1)[None].float()
        small = image if image.shape[:2] == frame else resized(image, frame)
        return resize(torch.from_numpy(small).permute(2, 0, 1)[None].float(), self.size)

    def _along_edges(
        self, out: Prediction, kind: Confidence | None, threshold: float | None, void: int
    ) -> Prediction:
        parts = []
        for index, image in enumerate(self.images):
            scores = self.scores(index)
            temperature = None if self.scorer.settings.refine.ks else self.scorer.temperature
            shares = probabilities(scores, temperature, self.scorer.bias)
            mask, best = follow_edges(out.mask[index], shares, image)
            parts.append((mask if threshold is None else mask.masked_fill(best < threshold, void), best))
        masks, best = (torch.stack(part) for part in zip(*parts, strict=True))
        return Prediction(masks, best if kind else None)

    def _by_word(self, threshold: float | None, confidence: bool) -> Prediction:
        compat, background = self.scorer.settings.compat, self.scorer.settings.background
        owner = self.scorer.embeddings.class_of_prompt + (threshold is not None and not background.scored)
        parts = [
            decode_words(self.planes(index), owner, self.scorer.temperature, threshold, compat.area)
            for index in range(len(self.maps[0]))
        ]
        found = [part.confidence for part in parts if part.confidence is not None]
        return Prediction(
            torch.stack([part.mask for part in parts]), torch.stack(found) if confidence else None
        )

    def _of(self, index: int) -> list[Tensor]:
        return [one[index] for one in self.maps]

    def _composer(self, size: Size) -> ScoreFusion:
        """Cosines are averaged as they are, trained models' views by probability, as their tests are defined."""
        temperature = None if isinstance(self.scorer.model, Clip) else self.scorer.temperature
        grids = [(one.shape[2], one.shape[3]) for one in self.maps]
        return ScoreFusion(list(self.cuts), grids, size, temperature)

    def _decode(
        self, kind: Confidence | None, threshold: float | None, *, void: int, wait: bool
    ) -> Prediction:
        temperature, bias = self.scorer.temperature, self.scorer.bias
        if kind == "probability" and bias is not None:  # of the winner alone: it grows with the score
            least = None if threshold is None else (logit(threshold) - bias) / temperature
            out = self._decode("score", least, void=void, wait=wait)
            assert out.confidence is not None
            return out._replace(confidence=(out.confidence * temperature + bias).sigmoid())
        if self.composer is None and not self.scorer.settings.refine.pamr:
            return decode(
                self.maps[0],
                self.size,
                via=self.via,
                confidence=kind,
                temperature=temperature,
                threshold=threshold,
                void=void,
                wait=wait,
            )
        masks, found = [], []
        for index in range(len(self.maps[0])):
            if self.scorer.settings.refine.pamr:
                part = decode_planes(self.planes(index), kind, temperature, threshold, void)
            else:
                assert self.composer is not None
                part = self.composer.decode(self._of(index), kind, temperature, threshold, void)
            masks.append(part.mask)
            found += [] if part.confidence is None else [part.confidence]
        return Prediction(torch.stack(masks), torch.stack(found) if found else None)


EPSILON = 1e-3  # the variance of colors in 0..1 that is no edge yet
CELLS = 4  # of the coarse grid to a radius
RADIUS = 0.1  # of the picture's shorter side
LEAST = 5e-4  # of a mask, that a class must have to be filtered


def guided_filter(scores: Tensor, guide: Tensor, radius: int, epsilon: float = EPSILON) -> Iterator[Tensor]:
    """Scores (K, h, w) at the size of a picture (3, H, W) in 0..1, with its edges; (H, W) float32, class by class.

    Section 3.5, color guide: in every window, score = a . color + b by least squares, with `epsilon` on the diagonal
    of the colors' covariance; windows are averaged. radius: of a window, in pixels. As in the "Fast guided filter"
    (He & Sun, 2015), a and b are found on a grid of `CELLS` a radius and resized bilinearly.
    """
    height, width = guide.shape[1:]
    step = max(1, radius // CELLS)
    size = (-(-height // step), -(-width // step))
    small = F.interpolate(guide[None], size, mode="bilinear", antialias=step > 1)[0]  # (3, h', w')
    coarse = F.interpolate(scores[None].float(), size, mode="bilinear")[0]  # (K, h', w')
    lines = _lines(coarse, small, max(1, round(radius / step)), epsilon)  # (4, K, h', w')
    for index in range(len(scores)):
        fine = _resized(lines[:, index], (height, width))  # (4, H, W)
        yield fine[3].addcmul_(fine[0], guide[0]).addcmul_(fine[1], guide[1]).addcmul_(fine[2], guide[2])


@torch.no_grad()
def follow_edges(mask: Tensor, shares: Tensor, image: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """A mask (H, W) whose outlines follow the picture (H, W, 3), and the winners' filtered shares in 0..1, (H, W).

    shares: (K, h, w), probabilities that are coarser. Only classes that have more than `LEAST` of the mask are
    filtered, so the cost does not grow with the words; others get nothing. The radius is a tenth of
    the picture's shorter side (chosen by benchmarks/bench_edges.py).
    """
    counts = torch.bincount(mask.flatten().long(), minlength=len(shares))
    ids = (counts >= min(LEAST * mask.numel(), int(counts.max()))).nonzero()[:, 0]
    guide = torch.from_numpy(image).to(shares.device).permute(2, 0, 1).float() / 255
    radius = max(2, round(min(mask.shape) * RADIUS))
    best, found = None, torch.empty_like(mask, dtype=torch.int32)
    for number, plane in zip(ids.tolist(), guided_filter(shares[ids], guide, radius), strict=True):
        if best is None:
            best, found = plane, found.fill_(number)
            continue
        found.masked_fill_(plane > best, number)
        best = torch.maximum(best, plane, out=best)
    assert best is not None
    return found, best.clamp_(0, 1)


def _lines(scores: Tensor, guide: Tensor, radius: int, epsilon: float) -> Tensor:
    """a and b of scores (K, h, w) under colors (3, h, w), averaged over windows: (4, K, h, w)."""
    mean, averages = _box(guide, radius), _box(scores, radius)
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    products = _box(torch.stack([guide[i] * guide[j] for i, j in pairs]), radius)
    triangle = [
        products[place] - mean[i] * mean[j] + (epsilon if i == j else 0) for place, (i, j) in enumerate(pairs)
    ]
    inverse = _inverse(*triangle)
    cover = [_box(scores * guide[i], radius) - averages * mean[i] for i in range(3)]  # 3 of (K, h, w)
    rows = ((0, 1, 2), (1, 3, 4), (2, 4, 5))
    slopes = [inverse[a] * cover[0] + inverse[b] * cover[1] + inverse[c] * cover[2] for a, b, c in rows]
    shift = averages - slopes[0] * mean[0] - slopes[1] * mean[1] - slopes[2] * mean[2]
    return _box(torch.cat([*slopes, shift]), radius).unflatten(0, (4, -1))


def _inverse(rr: Tensor, rg: Tensor, rb: Tensor, gg: Tensor, gb: Tensor, bb: Tensor) -> list[Tensor]:
    """The inverse of symmetric 3 x 3 matrices, upper triangle row by row."""
    parts = [gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg]
    parts += [rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg]
    determinant = rr * parts[0] + rg * parts[1] + rb * parts[2]
    return [part / determinant for part in parts]


def _box(maps: Tensor, radius: int) -> Tensor:
    """Means (K, h, w) over squares of 2 radius + 1 cells, of what lies inside."""
    size = 2 * radius + 1
    for kernel, pad in (((size, 1), (radius, 0)), ((1, size), (0, radius))):
        maps = F.avg_pool2d(maps[None], kernel, 1, pad, count_include_pad=False)[0]
    return maps


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of (K, h, w); on a CPU by OpenCV, in a tenth of the time."""
    if maps.shape[1:] == size:
        return maps
    if maps.device.type != "cpu":
        return F.interpolate(maps[None], size, mode="bilinear")[0]
    out = np.empty((len(maps), *size), np.float32)
    for one, place in zip(maps.numpy(), out, strict=True):
        cv2.resize(one, (size[1], size[0]), dst=place, interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(out)
