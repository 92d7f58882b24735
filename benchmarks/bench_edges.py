"""Do outlines follow things? `python -m benchmarks.bench_edges --model tiny-rn`: mIoU, boundary IoU and time.

On the training split of sticker scenes. The boundary IoU (Cheng et al., CVPR 2021) is of pixels within `BAND` of an
outline, by class.
"""

import argparse
import json
import time
from collections import defaultdict

import cv2
import numpy as np
from numpy.typing import NDArray

import denseclip
from denseclip.data.opening import open_dataset
from denseclip.loading import set_dataset_classes
from denseclip.segment.settings import Refinement

BAND = 5
IGNORED = 255


def main() -> None:
    """Print a JSON line a refinement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny-rn")
    parser.add_argument("--preset", default="maskclip")
    parser.add_argument("--resize", default="2048x512")
    parser.add_argument("--slide", default=None)
    parser.add_argument("--data", default="stickers59")
    parser.add_argument("--split", default="train")
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--refine", default="none,guided,pamr")
    given = parser.parse_args()
    model = denseclip.load(
        given.model, preset=given.preset, resize=given.resize, slide=given.slide, precision="fp32",
        background=None, refine=None,
    )  # fmt: skip
    dataset = open_dataset(given.data, None, given.split)
    set_dataset_classes(model, dataset.spec)
    names = given.refine.split(",")
    regions = {name: np.zeros((2, len(dataset.spec.classes))) for name in names}
    bands = {name: np.zeros((2, len(dataset.spec.classes))) for name in names}
    seconds: dict[str, float] = defaultdict(float)
    for index in range(given.scenes):
        sample = dataset[index]
        start = time.perf_counter()
        encoded = model.encode(sample.image)
        seconds["encode"] += time.perf_counter() - start
        for name in names:
            model.configure(refine=Refinement.parse(name))
            start = time.perf_counter()
            mask = model.segment(encoded).mask
            seconds[name] += time.perf_counter() - start
            count(regions[name], bands[name], mask, sample.mask)
    for name in names:
        line = {
            "model": given.model,
            "preset": given.preset,
            "data": f"{given.data}/{given.split}",
            "refine": name,
        }
        line |= {"mIoU": mean(regions[name]), "boundary IoU": mean(bands[name])}
        line["ms"] = round(1000 * seconds[name] / given.scenes)
        print(json.dumps(line | {"encode ms": round(1000 * seconds["encode"] / given.scenes)}), flush=True)


def count(
    regions: NDArray[np.float64],
    bands: NDArray[np.float64],
    mask: NDArray[np.integer],
    truth: NDArray[np.integer],
) -> None:
    """Add intersections and unions of every class, of whole regions and of their bands."""
    counted = truth != IGNORED
    for value in np.union1d(mask[counted], truth[counted]):
        ours, theirs = (mask == value) & counted, truth == value
        for table, (a, b) in ((regions, (ours, theirs)), (bands, (band(ours), band(theirs)))):
            table[:, value] += (a & b).sum(), (a | b).sum()


def band(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a region (H, W) that lie within `BAND` of its outline."""
    kernel = np.ones((2 * BAND + 1, 2 * BAND + 1), np.uint8)
    inside = cv2.erode(region.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return region & ~inside.astype(bool)


def mean(table: NDArray[np.float64]) -> float:
    """The mean over classes that occur, in percent."""
    there = table[1] > 0
    return round(100 * float((table[0, there] / table[1, there]).mean()), 2)


if __name__ == "__main__":
    main()
