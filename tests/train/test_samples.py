"""Training batches: order, hidden labels, shares of processes, views."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from denseclip.clip import ImageStats
from denseclip.data.datasets import Sample, SegmentationDataset
from denseclip.data.published import dataset_spec
from denseclip.data.transforms import Augmentation, ResizeRule, disturb_colors, pad
from denseclip.errors import UserError
from denseclip.train.batches import Batch, Share, TrainingBatches, load_batches, normalized

PLAIN = Augmentation(ResizeRule("none"), (1.0, 1.0), (16, 16), 1.0, 0.0, colors=False)


@dataclass(frozen=True)
class Numbered:
    """An image of one gray level, with classes 0..2 in stripes and a stripe that is ignored."""

    number: int
    broken: bool = False
    files = ()

    @property
    def image_id(self):
        return str(self.number)

    def read(self, spec):
        if self.broken:
            raise UserError(f"image {self.number} is broken; replace it")
        mask = np.repeat(np.array([0, 1, 2, 255], np.uint8), 6)[:, None].repeat(24, 1)  # (24, 24)
        return Sample(self.image_id, np.full((24, 24, 3), self.number, np.uint8), mask)


def dataset(count=5, broken=()):
    entries = [Numbered(i, i in broken) for i in range(count)]
    return SegmentationDataset(dataset_spec("stickers20"), "train", entries)


def batches(data, share=None, augmentation=PLAIN, **options):
    options = {"first": 0, "steps": 10, "seed": 3} | options
    return TrainingBatches(data, augmentation, share or Share(4), **options)


def test_every_image_once_an_epoch_and_orders_differ():
    made = batches(dataset(), Share(5), steps=3)
    epochs = [made[i].index.tolist() for i in range(3)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_batch_depends_on_its_step_only():
    shake = Augmentation(ResizeRule("none"), crop=(16, 16))
    whole = [batch.images for batch in load_batches(batches(dataset(), augmentation=shake, steps=4), 0)]
    late = [
        batch.images for batch in load_batches(batches(dataset(), augmentation=shake, first=2, steps=4), 2)
    ]
    assert torch.equal(torch.stack(whole[2:]), torch.stack(late))


def test_processes_and_parts_share_one_batch():
    whole = batches(dataset(), Share(8))[1].index.tolist()
    parts = [
        batches(dataset(), Share(8, 2, rank, 2))[2 + part].index.tolist()
        for part in (0, 1)
        for rank in (0, 1)
    ]
    assert [index for part in parts for index in part] == whole
    with pytest.raises(UserError, match="does not divide"):
        Share(8, 1, 0, 3)


def test_hidden_labels():
    view = batches(dataset(), hidden=(1,)).batch(0).labels
    assert set(view.unique().tolist()) <= {0, -1, 2, 255} and (view == -1).any()
    assert batches(dataset(), everywhere=True).batch(0).labels.unique().tolist() == [-1]


def test_bad_images_give_way_or_stop():
    made = batches(dataset(broken=(2,)), Share(5), skip_bad=True).batch(0)
    assert 2 not in made.index.tolist() and made.skipped == ("image 2 is broken; replace it",)
    with pytest.raises(UserError, match="image 2 is broken"):
        list(load_batches(batches(dataset(broken=(2,)), Share(5)), 1))
    with pytest.raises(UserError, match="no image can be used"):
        batches(dataset(2, broken=(0, 1)), skip_bad=True).batch(0)


def test_padding_is_zero_after_normalization():
    large = Augmentation(ResizeRule("none"), (1.0, 1.0), (32, 28), 1.0, 0.0, colors=False)
    batch = batches(dataset(), augmentation=large).batch(0)
    assert batch.extent.tolist() == [[24, 24]] * 4 and (batch.labels[:, 24:] == 255).all()
    x = normalized(batch, ImageStats((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
    assert (x[:, :, 24:] == 0).all() and (x[..., 24:] == 0).all()
    expected = (batch.images[0, 0, 0, 0] / 255 - 0.5) / 0.25
    torch.testing.assert_close(x[0, 0, 0, 0], expected)


def test_geometry_says_where_a_view_came_from():
    ramp = np.arange(40 * 60).reshape(40, 60)
    image = np.stack([ramp // 256, ramp % 256, ramp * 0], -1).astype(np.uint8)
    cut = Augmentation(ResizeRule("none"), (1.0, 1.0), (16, 24), 1.0, 0.5, colors=False)
    for seed in range(8):
        view = cut(image, ramp, 255, np.random.default_rng(seed))
        part = ramp[view.top : view.top + 16, view.left : view.left + 24]
        assert np.array_equal(view.labels, part[:, ::-1] if view.mirrored else part)
        assert np.array_equal(view.image.astype(int) @ [256, 1, 0], view.labels)


def test_the_papers_rule_truncates_the_scaled_pair():
    rule = Augmentation(ResizeRule("long-short", (2048, 512)), (0.7003, 0.7003), (8, 8))
    assert rule._target((300, 400), np.random.default_rng(0)) == (358, 477)  # int(512 * 0.7003) = 358


def test_crops_with_one_dominant_label_are_redrawn():
    labels = np.zeros((64, 64), np.int64)
    labels[:8] = 1
    image = np.zeros((64, 64, 3), np.uint8)
    mixed = dict.fromkeys((0.75, 1.0), 0)
    for ratio in mixed:
        cut = Augmentation(ResizeRule("none"), (1.0, 1.0), (16, 16), ratio, 0.0, colors=False)
        views = [cut(image, labels, 255, np.random.default_rng(seed)) for seed in range(60)]
        mixed[ratio] = sum(0.25 <= (view.labels == 1).mean() <= 0.75 for view in views)
    assert mixed[0.75] > 2 * mixed[1.0] > 0


def test_colors_stay_in_range_and_differ():
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    made = [disturb_colors(image, np.random.default_rng(seed)) for seed in range(30)]
    assert all(one.dtype == np.uint8 and one.shape == image.shape for one in made)
    assert sum(np.array_equal(one, image) for one in made) < 10
    gray = np.full((4, 4, 3), 90, np.uint8)  # hue and saturation cannot change gray
    for seed in range(20):
        assert (np.ptp(disturb_colors(gray, np.random.default_rng(seed)), axis=2) == 0).all()


def test_pad_keeps_what_is_there():
    image, labels = pad(np.ones((3, 4, 3), np.uint8), np.ones((3, 4), np.int64), (5, 6), 255)
    assert image.shape == (5, 6, 3) and labels.shape == (5, 6)
    assert (labels == 1).sum() == 12 and (labels == 255).sum() == 18 and image.sum() == 36


def test_batches_split():
    batch = batches(dataset()).batch(0)
    assert isinstance(batch, Batch) and [len(part.images) for part in batch.split(3)] == [3, 1]
