"""What mmdetection gives to whom: things to anchors and regions, and what is no example (section 5)."""

import pytest
import torch
from small_denseclip import images
from small_detectors import sizes, small_detector, things
from torch import nn
from torchvision.models.detection._utils import BoxCoder, Matcher

from denseclip.detection.config import PROFILES
from denseclip.detection.matching import MaxIou, box_coder
from denseclip.detection.retinanet import retina_anchors

THEIRS, USUAL = PROFILES["mmdet", "retinanet"], PROFILES["torchvision", "retinanet"]


def test_thresholds_are_those_of_torchvision():
    overlaps = torch.tensor([[0.1, 0.29, 0.3, 0.69, 0.7, 0.9]])
    for kind in (MaxIou(0.7, 0.3, 0.3), Matcher(0.7, 0.3)):
        assert kind(overlaps).tolist() == [-1, -1, -2, -2, 0, 0]


def test_a_thing_gets_its_best_box_away_from_another():
    overlaps = torch.tensor([[0.9, 0.6, 0.0], [0.2, 0.55, 0.1]])
    assert MaxIou(0.5, 0.5, 0.5)(overlaps).tolist() == [0, 1, -1]
    assert Matcher(0.5, 0.5, allow_low_quality_matches=True)(overlaps).tolist() == [0, 0, -1]
    both = torch.tensor([[0.6, 0.0], [0.6, 0.0]])
    assert MaxIou(0.5, 0.5, 0.5)(both).tolist() == [1, -1], "the last thing keeps it"


def test_a_best_box_needs_the_least_overlap():
    overlaps = torch.tensor([[0.1, 0.29]])
    assert MaxIou(0.7, 0.3, 0.3)(overlaps).tolist() == [-1, -1]
    assert MaxIou(0.5, 0.4, 0.0)(overlaps).tolist() == [-1, 0]
    assert Matcher(0.7, 0.3, allow_low_quality_matches=True)(overlaps).tolist() == [-1, 0]
    assert MaxIou(0.7, 0.3, 0.3)(torch.zeros(2, 0)).tolist() == []


def test_boxes_do_not_vanish():
    boxes, deltas = torch.tensor([[0.0, 0, 1000, 500]]), torch.full((1, 8), -90.0)
    deltas[:, :2], deltas[:, 4:6] = 0, 0
    for weights in ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)):
        ours = box_coder(weights, THEIRS).decode_single(deltas, boxes)[0].view(2, 4)
        torch.testing.assert_close(ours[:, 2:] - ours[:, :2], torch.tensor([[16.0, 8]] * 2))
        usual = box_coder(weights, USUAL).decode_single(deltas, boxes)[0].view(2, 4)
        assert (usual[:, 2:] - usual[:, :2] < 1e-3).all()
    small = torch.randn(5, 4) / 4
    many = torch.tensor([[3.0, 4, 50, 60]]).expand(5, 4)
    weights = (10.0, 10.0, 5.0, 5.0)
    torch.testing.assert_close(
        box_coder(weights, THEIRS).decode_single(small, many), BoxCoder(weights).decode_single(small, many)
    )


def test_anchors_within_a_picture():
    """A picture of 33 x 64 pixels is padded to 64 x 64 by itself, in a batch of 128 x 96."""
    anchors, maps = (
        retina_anchors(rounded=False),
        [torch.zeros(2, 1, -(-128 // s), -(-96 // s)) for s in (8, 16)],
    )
    small, whole = anchors.within([(33, 64), (128, 96)], maps)
    grid = small[: 16 * 12 * 9].view(16, 12, 9)
    assert grid[:8, :8].all() and grid.sum() == 8 * 8 * 9
    assert small[16 * 12 * 9 :].view(8, 6, 9)[:4, :4].all() and small.sum() == (64 + 16) * 9
    assert whole.all() and len(whole) == (16 * 12 + 8 * 6) * 9


@pytest.mark.parametrize("kind", ["retinanet", "maskrcnn"])
def test_padding_teaches_nothing(kind):
    """One picture alone, and beside a larger one: its head's sums are the same, apart from where features differ."""
    model = small_detector(kind, detector={"profile": "mmdet"})
    batch = images(1)
    truth = [things((8, 8, 40, 40))]
    wide = nn.functional.pad(batch, (0, 64))
    height, width = batch.shape[2:]
    extent = torch.tensor([[height, width]])
    with torch.no_grad():
        pyramid = model.run(wide).pyramid
    anchors = model.head.anchor_generator if kind == "retinanet" else model.head.rpn.anchor_generator
    (within,) = anchors.within([(height, width)], pyramid)
    assert 0 < within.float().mean() < 1
    seen = []
    target = model.head.head if kind == "retinanet" else model.head.rpn
    original = target.compute_loss

    def spy(*arguments):
        seen.append(arguments[3] if kind == "retinanet" else [labels.clone() for labels in arguments[2]])
        return original(*arguments)

    target.compute_loss = spy
    model.train()
    model.loss(wide, extent, truth)
    (found,) = seen[0]
    ignored = -2 if kind == "retinanet" else -1
    assert (found[~within] == ignored).all()
    assert (found[within] != ignored).float().mean() > 0.9
    model.loss(wide, sizes(wide), truth)
    assert (seen[1][0][~within] != ignored).any(), "nothing is padding now"


def test_regions_are_matched_before_the_things_join_them():
    model = small_detector("maskrcnn", detector={"profile": "mmdet"}).head.roi_heads
    boxes = torch.tensor([[0.0, 0, 20, 20], [0, 0, 20, 14]])
    region = torch.tensor([[0.0, 0, 20, 15]])  # of the second: 0.93, of the first: 0.75
    wide = torch.tensor([[0.0, 0, 20, 19]])  # of the first: 0.95, of the second: 0.74
    labels = torch.tensor([1, 2])
    regions = [torch.cat([region, wide, boxes])]
    matched, found = model.assign_targets_to_proposals(regions, [boxes], [labels])
    assert matched[0].tolist() == [1, 0, 0, 1] and found[0].tolist() == [2, 1, 1, 2]
    alone = [torch.cat([region, boxes])]  # now it is the best region of both, and the last one's
    assert model.assign_targets_to_proposals(alone, [boxes], [labels])[1][0].tolist() == [2, 1, 2]
    swapped = [torch.cat([wide, boxes])]
    theirs = model.assign_targets_to_proposals(swapped, [boxes], [labels])[1][0]
    usual = small_detector("maskrcnn").head.roi_heads.assign_targets_to_proposals(swapped, [boxes], [labels])
    assert theirs.tolist() == [2, 1, 2] and usual[1][0].tolist() == [1, 1, 2]
    nothing = model.assign_targets_to_proposals([region], [boxes[:0]], [labels[:0]])
    assert nothing[1][0].tolist() == [0]


@pytest.mark.parametrize("kind", ["retinanet", "maskrcnn"])
def test_the_official_start_of_the_heads(kind):
    """Stacked convolutions by He, everything else as PyTorch starts it, uniform and with a bias (section 4.1)."""
    head = small_detector(kind, official=True).head
    if kind == "retinanet":
        parts = head.head.classification_head, head.head.regression_head
        stacked = [*parts[0].conv.modules(), *parts[1].conv.modules()]
        plain = [parts[0].cls_logits, parts[1].bbox_reg]
    else:
        stacked = list(head.roi_heads.mask_head.modules())
        plain = [
            head.rpn.head.conv[0][0],
            head.rpn.head.cls_logits,
            head.roi_heads.mask_predictor.mask_fcn_logits,
        ]
        plain += [head.roi_heads.box_head.fc6, head.roi_heads.box_predictor.cls_score]
    stacked = [part for part in stacked if isinstance(part, nn.Conv2d)]
    assert len(stacked) == (8 if kind == "retinanet" else 4)
    for part in stacked:
        fan = part.out_channels * 9
        assert part.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.15) and not part.bias.any()
    for part in plain:
        bound = part.weight[0].numel() ** -0.5
        assert 0.5 * bound < part.weight.abs().max() <= bound and part.bias.any()
