"""Images of one shape go together in detection, so that little of a batch is padding."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from denseclip.data.instances import InstanceDataset
from denseclip.data.transforms import ResizeRule
from denseclip.train.batches import DIVISOR, Share, ThingsBatches
from denseclip.train.recipe import read_recipe

# (height, width) as they are common in COCO, with rough shares
SIZES = {
    (480, 640): 32, (427, 640): 18, (640, 480): 11, (426, 640): 8, (640, 427): 6, (640, 426): 3, (428, 640): 3,
    (360, 640): 3, (375, 500): 4, (333, 500): 3, (500, 375): 2, (640, 640): 2, (612, 612): 2, (640, 360): 1,
    (500, 333): 1, (640, 512): 1,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    size: tuple[int, int]
    image_id: str = "x"
    files: tuple[Path, ...] = ()


def dataset():
    rng = np.random.default_rng(0)
    shares = np.array(list(SIZES.values())) / sum(SIZES.values())
    chosen = rng.choice(len(SIZES), 2000, p=shares)
    return InstanceDataset("coco", "train", ["thing"], [1], [Entry(list(SIZES)[index]) for index in chosen])


def padding(batches, items):
    """Share of the batches' pixels that no image fills."""
    rule, filled, held = ResizeRule.parse("1333x800"), 0, 0
    for item in range(items):
        shapes = [
            rule.target(*batches.dataset.entries[batches._index(at)].size) for at in batches.positions(item)
        ]
        tall, wide = (-(-max(sides) // DIVISOR) * DIVISOR for sides in zip(*shapes, strict=True))
        filled += sum(height * width for height, width in shapes)
        held += len(shapes) * tall * wide
    return 1 - filled / held


def batches(share):
    return ThingsBatches(
        dataset(),
        read_recipe("coco-retinanet-rn50").detection.build(masks=False),
        share,
        first=0,
        steps=100,
        seed=0,
    )


def test_at_most_8_percent_is_padding():
    recipe = read_recipe("coco-retinanet-rn50")
    share = Share(recipe.batch, recipe.parts(1))
    assert share.batch // share.accumulate == 2
    assert padding(batches(share), 400) <= 0.08
    assert padding(batches(Share(16)), 50) > 0.25  # all of a step together


@pytest.mark.parametrize(("processes", "parts"), [(1, 8), (2, 4), (8, 1), (16, 1)])
def test_every_image_of_a_step_is_seen_once_whatever_the_processes(processes, parts):
    assert read_recipe("coco-retinanet-rn50").parts(processes) == parts
    seen = []
    for rank in range(processes):
        made = batches(Share(16, parts, rank, processes))
        for item in range(3 * parts, 4 * parts):  # the fourth step
            seen += made.positions(item)
    assert sorted(seen) == list(range(48, 64))
