"""How time and memory grow with pictures, words and sides: results/growth.json and docs/growth.png.

python -m benchmarks.growth [--most PICTURES | --draw]

tiny-rn in fp32 on the CPU: pictures of 64 x 64 under 20 words; words, random directions, on one picture of 512 x 512;
sides of one picture under 171 words. Memory is what a process takes at most above what it had with the model loaded.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import denseclip
from benchmarks.bench_evaluate import memory
from denseclip.io import write_text
from denseclip.segment.segmenter import Segmenter
from denseclip.text import ClassEmbeddings, ClassPrompts

HOME = Path(__file__).parent.parent
PICTURES, WORDS, SIDES = (10, 100, 1000, 10_000), (10, 100, 1000, 10_000), (224, 512, 1024, 2048, 4096)


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draw", action="store_true", help="only draw results/growth.json again")
    parser.add_argument("--most", type=int, default=PICTURES[-1], help="pictures at most")
    given = parser.parse_args()
    if given.draw:
        draw(json.loads((HOME / "results" / "growth.json").read_text()), HOME / "docs" / "growth.png")
        return
    most = given.most
    model = denseclip.load("tiny-rn", ["cat"], resize="none", precision="fp32", device="cpu", cache=False)
    ask(model, 20)
    list(model.segment(scenes(64, 3)))
    found = {
        "pictures": [point(model, n, 20, 64) | {"at": n} for n in PICTURES if n <= most],
        "words": [point(model, 1, n, 512) | {"at": n} for n in WORDS],
        "side": [point(model, 1, 171, n) | {"at": n} for n in SIDES],
    }
    write_text(HOME / "results" / "growth.json", json.dumps(found, indent=1) + "\n")
    draw(found, HOME / "docs" / "growth.png")


def point(model: Segmenter, pictures: int, words: int, side: int) -> dict[str, float]:
    """Seconds, and MiB above the model, of so many pictures of one side under so many words."""
    ask(model, words)
    for _ in model.segment(scenes(side, 1)):
        pass
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory("VmRSS")
    start = time.perf_counter()
    for _ in model.segment(scenes(side, pictures)):
        pass
    seconds = time.perf_counter() - start
    grown = max(0.0, memory("VmHWM") - before) / 2**20
    print(f"  {pictures} pictures, {words} words, side {side}: {seconds:.2f} s, {grown:.0f} MiB", flush=True)
    return {"seconds": round(seconds, 3), "MiB": round(grown, 1)}


def ask(model: Segmenter, words: int) -> None:
    """Random directions as words: what they mean costs nothing."""
    rows = F.normalize(
        torch.randn(words, model.clip.embed_dim, generator=torch.Generator().manual_seed(0)), dim=1
    )
    names = tuple(f"word {index}" for index in range(words))
    model._embeddings = ClassEmbeddings(rows, torch.arange(words), names)  # what set_classes would compute
    model._class_prompts = ClassPrompts(names, tuple((name,) for name in names))


def scenes(side: int, count: int) -> Iterator[np.ndarray]:
    """Pictures with structure, no two alike."""
    rng = np.random.default_rng(0)
    cells = max(1, side // 16)
    for _ in range(count):
        coarse = rng.integers(0, 256, (-(-side // cells),) * 2 + (3,), dtype=np.uint8)
        yield np.ascontiguousarray(coarse.repeat(cells, 0).repeat(cells, 1)[:side, :side])


def draw(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Time and memory against each, both axes logarithmic."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    figure, axes = plt.subplots(2, 3, figsize=(11, 5.5), sharex="col", layout="constrained")
    for column, (name, points) in enumerate(found.items()):
        at = [one["at"] for one in points]
        for row, (key, unit) in enumerate((("seconds", "s"), ("MiB", "MiB above the model"))):
            axis = axes[row, column]
            values = [one[key] for one in points]
            axis.plot(at, values, "o-", color="#0b6e99")
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())
            if row:
                axis.set_ylim(0, max(50, 1.1 * max(values)))
            else:
                axis.set_yscale("log")
                axis.set_ylim(0.01, 100)
            axis.grid(alpha=0.3, which="both")
            axis.set_ylabel(unit if column == 0 else "")
            axis.set_xlabel({"side": "side, pixels"}.get(name, name) if row else "")
    figure.suptitle("tiny-rn, fp32, CPU: python -m benchmarks.growth")
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
