"""Decoding against `F.interpolate(...).argmax(1)`: 171 classes, 32 x 32 to 512 x 512, on this machine's CPU.

How many classes compete in a cell decides the time of ours, so the maps matter. Three are measured:
- tiny-rn: scores of the embedded model for a sticker scene of 1,024 pixels and 171 words (where it is installed);
- model-like: cosines of unit features with unit text vectors, in blobs with soft edges, smooth and white noise on
  top, so that after the coarse bound as many classes are left in a cell as on tiny-rn's maps (1 in the median
  cell, about 4 on average);
- white noise: the worst case, no two neighboring positions have anything in common.
The figures that count are the lowest of the first two.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from denseclip.errors import UserError
from denseclip.segment.decode import candidates, decode

CLASSES, SIDE, SIZE = 171, 32, (512, 512)
ROUNDS, REPEATS = 7, 3
WORST = "white noise"


def run() -> dict[str, float]:
    """{"decode_k171_speed": reference / ours, "decode_k171_memory": extra bytes of the same, ..._noise_...}."""
    maps = {"model-like": model_like(), WORST: torch.randn(1, CLASSES, SIDE, SIDE) * 0.05}
    try:
        maps["tiny-rn"] = tiny_rn()
    except UserError as error:
        print(f"  tiny-rn is left out: {error}")
    found = {name: measure(name, scores) for name, scores in maps.items()}
    speeds, memories = zip(*(values for name, values in found.items() if name != WORST), strict=True)
    return {
        "decode_k171_speed": min(speeds),
        "decode_k171_memory": min(memories),
        "decode_k171_noise_speed": found[WORST][0],
        "decode_k171_noise_memory": found[WORST][1],
    }


def measure(name: str, scores: Tensor) -> tuple[float, float]:
    """Speed and memory ratios on one map, (1, K, h, w); prints them and how far the masks agree."""

    def reference() -> Tensor:
        return F.interpolate(scores, size=SIZE, mode="bilinear").argmax(1)

    def ours() -> Tensor:
        return decode(scores, SIZE).mask

    agreement = compare(scores, ours())
    rounds = [(seconds(reference, 1), seconds(ours, REPEATS)) for _ in range(ROUNDS)]
    speed = statistics.median(theirs / mine for theirs, mine in rounds)
    theirs, mine = (statistics.median(column) * 1e3 for column in zip(*rounds, strict=True))
    full, lean = extra_memory(reference), extra_memory(ours)
    left = candidates(scores[0], (2, 2)).count.float()
    print(
        f"  {name}: {theirs:.0f} ms -> {mine:.1f} ms ({speed:.0f}x), {full / 2**20:.1f} MiB -> "
        f"{lean / 2**20:.2f} MiB ({full / lean:.0f}x); classes left in a cell: median {left.median():.0f}, "
        f"mean {left.mean():.1f}, most {left.max():.0f}; {agreement}"
    )
    return speed, full / lean


def compare(scores: Tensor, mask: Tensor) -> str:
    """How many pixels differ from the reference's, and by how much of a score at most."""
    full = F.interpolate(scores, size=SIZE, mode="bilinear")  # (1, K, H, W)
    differ = mask != full.argmax(1)
    lost = (full.amax(1) - full.gather(1, mask.long()[:, None])[:, 0])[differ]  # score of theirs above ours
    assert differ.sum() == 0 or lost.max() <= 1e-6 * full.abs().max(), (
        "the masks differ by more than rounding"
    )
    ties = f", all ties to {lost.max():.0e}" if differ.any() else ""
    return f"{int(differ.sum())} of {mask.numel()} pixels differ{ties}"


def seconds(work: Callable[[], Tensor], repeats: int) -> float:
    """Of one call, the mean of a few in a row."""
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - start) / repeats


def extra_memory(work: Callable[[], Tensor]) -> int:
    """Most bytes that torch had allocated at once during a call, what it returns included, inputs not.

    Summed up from the allocator's own events, so that temporaries inside operations count, too.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = work()
    assert record.profiler is not None
    assert record.profiler.kineto_results is not None
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    assert peak >= result.nbytes, "the profiler reported no allocations"
    return peak


def model_like(seed: int = 0, width: int = 512, objects: int = 12) -> Tensor:
    """Cosines (1, K, h, w) of smooth features with class vectors that have much in common, as CLIP's have."""
    generator = torch.Generator().manual_seed(seed)

    def unit(*shape: int) -> Tensor:
        return F.normalize(torch.randn(*shape, generator=generator), dim=-1)

    kinds = unit(CLASSES // 8, width)[torch.arange(CLASSES) % (CLASSES // 8)]  # classes come in groups
    text = F.normalize(0.7**0.5 * unit(width) + 0.12**0.5 * kinds + 0.18**0.5 * unit(CLASSES, width), dim=1)
    share = blobs(objects, generator)  # (K, h, w)
    content = F.normalize(torch.einsum("khw,kd->hwd", share, text - text.mean(0)), dim=-1)
    white = torch.randn(2, SIDE, SIDE, width, generator=generator) / width**0.5  # unit length
    smooth = F.avg_pool2d(white[0].permute(2, 0, 1)[None], 7, 1, 3, count_include_pad=False)[0].permute(
        1, 2, 0
    )
    smooth = F.normalize(smooth, dim=-1)
    features = F.normalize(
        0.25 * content + 0.9 * unit(width) + 0.5 * smooth + 0.3 * white[1], dim=-1
    )  # (h, w, D)
    return torch.einsum("hwd,kd->khw", features, text)[None].contiguous()


def blobs(objects: int, generator: torch.Generator) -> Tensor:
    """Share (K, h, w) of each class in each position: two halves and ellipses on them, edges inside positions."""
    side = 4 * SIDE
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    classes = torch.randint(CLASSES, (objects,), generator=generator)
    labels = torch.where(y < 0.55 * side, classes[0], classes[1])
    for label in classes[2:]:
        center, radius = torch.rand(2, generator=generator), 0.04 + 0.15 * torch.rand(2, generator=generator)
        inside = ((y / side - center[0]) / radius[0]) ** 2 + ((x / side - center[1]) / radius[1]) ** 2 < 1
        labels = torch.where(inside, label, labels)
    return F.avg_pool2d(F.one_hot(labels, CLASSES).permute(2, 0, 1).float(), 4)


def tiny_rn() -> Tensor:
    """Scores (1, K, h, w) of the embedded tiny-rn. Raises UserError where it is not installed."""
    import denseclip
    from denseclip.data.stickers import TEXTURES, render, sprite_names

    words = (*sprite_names(common=True), *TEXTURES, *sprite_names(common=False))[:CLASSES]
    side = 32 * SIDE
    model = denseclip.load("tiny-rn", words, templates="1", resize="none", device="cpu", precision="fp32")
    return model.decoding(render("test", 0, side=side).image).scores()[None].clone()


if __name__ == "__main__":
    for name, ratio in run().items():
        print(f"{name}: {ratio:.1f}x")
