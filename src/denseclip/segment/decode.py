"""From scores at map resolution to a mask at picture resolution, without the scores at picture resolution."""

import torch
from torch import Tensor

from denseclip.errors import UserError
from denseclip.segment.decode_cells import decode_cells
from denseclip.segment.pixels import Ask, Confidence, Decoded
from denseclip.segment.resample import Size, axes, resize, wide

CHUNK_SCORES = 1 << 22  # full-size scores held together where all are computed
SMALL_SCORES = 1 << 20  # below this many, computing all of them is quicker than choosing


@torch.no_grad()
def decode(
    scores: Tensor,
    size: Size,
    *,
    via: Size | None = None,
    confidence: Confidence | None = None,
    temperature: float = 100.0,
    threshold: float | None = None,
    void: int = 255,
) -> Decoded:
    """Best class of each pixel after bilinear upsampling (align_corners=False).

    The mask is that of `F.interpolate(scores, size, mode="bilinear").argmax(1)`, except where classes tie to
    the last bits of their scores, in memory that does not grow with classes x pixels.

    Args:
        scores: (N, K, h, w) floating point, all finite: cosines, or what key smoothing made of them.
        size: (H, W) of the mask in pixels; may be smaller than the map.
        via: (H', W') of the network's input for the official two-step resize, map -> input -> picture.
        confidence: of the winner: "score" (upsampled), "probability" (soft-max over all classes of
            `temperature` x upsampled scores, to about 1e-5), or None.
        temperature: of that soft-max.
        threshold: pixels of lower confidence get the id `void`.
        void: a class that is the background, or an id of no class.

    Returns mask and confidence, (N, H, W) each. Raises UserError if a score is not finite.
    """
    assert scores.dim() == 4, scores.shape
    assert threshold is None or confidence is not None, "a threshold on which confidence?"
    scores = wide(scores)
    if not all(torch.isfinite(end) for end in scores.aminmax()):  # which hand on NaN
        raise UserError("the scores hold NaN or infinite values: run the encoder in float32 or bfloat16")
    highest = max(scores.shape[1] - 1, 0 if threshold is None else void)
    ask = Ask(confidence, temperature, torch.uint8 if highest <= 255 else torch.int32)
    out = Decoded.blank((len(scores), *size), ask, scores)
    rows, columns = axes(scores, size, via)
    few = max(rows.width, columns.width) <= 3 and cells_pay(scores, size, ask)
    for index, image in enumerate(scores):
        part = decode_cells(image, rows, columns, ask) if few else decode_chunks(image, size, via, ask)
        out.write(index, part)
    if threshold is not None and out.confidence is not None:
        out.mask[out.confidence < threshold] = void
    return out


def cells_pay(scores: Tensor, size: Size, ask: Ask) -> bool:
    """Whether choosing classes cell by cell is quicker than computing all: on a CPU, with roomy cells."""
    pixels = size[0] * size[1]
    roomy = pixels >= (32 if ask.confidence == "probability" else 8) * scores[0, 0].numel()
    return roomy and scores.shape[1] * pixels >= SMALL_SCORES and scores.device.type == "cpu"


def decode_chunks(scores: Tensor, size: Size, via: Size | None, ask: Ask) -> Decoded:
    """Decode one map (K, h, w) with a running winner over chunks of classes, computed at full size."""
    best = scores.new_full(size, -torch.inf)
    ids = torch.zeros(size, dtype=torch.int64, device=scores.device)
    total = torch.zeros_like(best)
    chunk = max(1, CHUNK_SCORES // best.numel())
    for first in range(0, len(scores), chunk):
        full = resize(scores[None, first : first + chunk], size, via)[0]  # (k, H, W)
        top, winner = full.max(0)
        ids = torch.where(top > best, winner + first, ids)
        top = torch.maximum(top, best)
        if ask.confidence == "probability":
            total *= ((best - top) * ask.temperature).exp_()
            total += (full - top).mul_(ask.temperature).exp_().sum(0)
        best = top
    return Decoded(ids, total.reciprocal_() if ask.confidence == "probability" else best)
