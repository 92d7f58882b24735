"""From scores at map resolution to a mask at picture resolution, without the scores at picture resolution."""

import torch
from torch import Tensor

from denseclip.dense.decode_cells import decode_cells
from denseclip.dense.pixels import Ask, Confidence, Decoded
from denseclip.dense.resample import Size, Taps, axes, mix_columns, mix_rows, wide
from denseclip.errors import UserError

DENSE_SCORES = 1 << 22  # full-size scores held together by the dense way


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
    """Mask of the best class per pixel after bilinear upsampling (align_corners=False), lowest id where tied.

    The mask is that of `F.interpolate(scores, size, mode="bilinear").argmax(1)`, except for ties to the last bits
    of the scores, in memory that does not grow with classes times pixels.

    Args:
        scores: (N, K, h, w) floating point, all finite: cosines, or what key smoothing made of them.
        size: (H, W) of the mask in pixels; may also be smaller than the map.
        via: (H', W') of the network's input for the official two-step resize, map -> input -> picture.
        confidence: "score" (of the winner, upsampled), "probability" (of the winner: soft-max over all classes of
            `temperature` times the upsampled scores, to 1e-6) or None.
        temperature: of that soft-max.
        threshold: pixels with a lower confidence get the id `void`.
        void: class id of the background, or an id of no class.

    Raises:
        UserError: the scores are not finite.
    """
    assert scores.dim() == 4 and scores.numel() > 0, scores.shape
    assert threshold is None or confidence is not None, "a threshold needs to know which confidence"
    scores = wide(scores)
    if not all(torch.isfinite(end) for end in scores.aminmax()):  # which hand on NaN
        raise UserError("the scores hold NaN or infinite values: run the encoder in float32 or bfloat16")
    highest = max(scores.shape[1] - 1, 0 if threshold is None else void)
    ask = Ask(confidence, temperature, torch.uint8 if highest <= 255 else torch.int32)
    rows, columns = axes(scores, size, via)
    out = Decoded.blank((len(scores), *size), ask, scores)
    way = decode_cells if _has_cells(scores, rows, columns) else decode_dense
    for index, image in enumerate(scores):
        out.write(index, way(image, rows, columns, ask))
    if threshold is not None and out.confidence is not None:
        out.mask[out.confidence < threshold] = void
    return out


def _has_cells(scores: Tensor, rows: Taps, columns: Taps) -> bool:
    """Whether cells pay: on a CPU (a GPU is fast at much equal work) and with enough pixels to a cell."""
    h, w = scores.shape[-2:]
    roomy = len(rows.first) * len(columns.first) >= 9 * h * w
    return roomy and scores.device.type == "cpu" and max(rows.width, columns.width) <= 3


def decode_dense(scores: Tensor, rows: Taps, columns: Taps, ask: Ask) -> Decoded:
    """Decode one map (K, h, w) by tiles of rows and chunks of classes, looking at every class everywhere."""
    out = Decoded.blank((len(rows.first), len(columns.first)), ask, scores)
    tall = max(1, DENSE_SCORES // (len(scores) * out.mask.shape[1]))
    for start in range(0, len(out.mask), tall):
        tile = slice(start, start + tall)
        out.write(tile, _decode_tile(scores, rows.at(tile), columns, ask))
    return out


def _decode_tile(scores: Tensor, rows: Taps, columns: Taps, ask: Ask) -> Decoded:
    """Decode a few rows, with a running winner over chunks of classes."""
    shape = (len(rows.first), len(columns.first))
    best = scores.new_full(shape, -torch.inf)
    ids = torch.zeros(shape, dtype=torch.int64, device=scores.device)
    total = scores.new_zeros(shape)
    chunk = max(1, DENSE_SCORES // best.numel())
    for first in range(0, len(scores), chunk):
        full = mix_columns(mix_rows(scores[first : first + chunk], rows), columns)  # (k, R, W)
        top, winner = full.max(0)
        ids = torch.where(top > best, winner + first, ids)
        top = torch.maximum(top, best)
        if ask.confidence == "probability":
            total *= ((best - top) * ask.temperature).exp_()
            total += full.sub_(top).mul_(ask.temperature).exp_().sum(0)
        best = top
    return Decoded(ids, total.reciprocal() if ask.confidence == "probability" else best)
