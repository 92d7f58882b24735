"""DenseCLIP at inference, its words computed once, against running the text encoder for every picture.

RN50 shape, ADE20K's 150 classes, 512 x 512, random weights, the same precision on both sides.
"""

import statistics
import time

import torch

from benchmarks.bench_segment import loaded, random_rn50
from denseclip.models.config import DenseClipConfig
from denseclip.models.denseclip import build_denseclip
from denseclip.text.prompts import class_set

SIDE, ROUNDS = 512, 3


@torch.no_grad()
def run() -> dict[str, float]:
    """Ratio of images/s, cached over not, median of interleaved rounds."""
    clip = loaded(random_rn50())
    model = build_denseclip(DenseClipConfig(resolution=SIDE), clip, class_set("ade")).eval()
    image = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

    def every_time() -> torch.Tensor:
        model.train()  # forgets the words
        return model.eval()(image)

    times: dict[str, list[float]] = {"every time": [], "cached": []}
    outputs = {}
    for _ in range(ROUNDS + 1):
        for name, way in (("every time", every_time), ("cached", lambda: model(image))):
            start = time.perf_counter()
            outputs[name] = way()
            times[name].append(time.perf_counter() - start)
    ratio = statistics.median(
        a / b for a, b in zip(times["every time"][1:], times["cached"][1:], strict=True)
    )
    difference = float((outputs["cached"] - outputs["every time"]).abs().max())
    print(
        f"  outputs differ by {difference:.1e} at most, {1 / statistics.median(times['cached']):.2f} images/s"
    )
    assert difference <= 1e-4
    return {"denseclip_text_cached": ratio}


if __name__ == "__main__":
    print(run())
