"""Where torchvision and the papers' framework differ, one by one (section 5.1)."""

import pytest
import torch
from small_denseclip import images
from small_detectors import KINDS, sizes, small_detector, things
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import roi_align

from denseclip.detection.config import MMDET, PROFILES, DetectorConfig
from denseclip.detection.mask_rcnn import RoiPool, box_losses, mask_target
from denseclip.detection.retinanet import image_list, retina_anchors, rpn_anchors
from denseclip.errors import UserError


def test_profiles_as_listed():
    usual = PROFILES["torchvision", "retinanet"]
    assert (usual.detections, PROFILES["torchvision", "maskrcnn"].detections, MMDET.detections) == (
        300,
        100,
        100,
    )
    assert (usual.train_proposals, MMDET.train_proposals) == (2000, 1000)
    assert (usual.smooth_beta, MMDET.smooth_beta) == (pytest.approx(1 / 9), 0)
    assert usual.frozen_norms and not MMDET.frozen_norms


def test_single_details_can_be_changed():
    config = DetectorConfig("retinanet", "mmdet", {"detections": 7})
    assert config.details.detections == 7
    assert not config.details.rounded_anchors
    with pytest.raises(UserError, match="a profile has no 'detection'"):
        DetectorConfig(changes={"detection": 7})
    assert DetectorConfig.from_dict(config.to_dict()) == config


def test_group_norms_in_retinas_head():
    plain, normed = small_detector(), small_detector(detector={"changes": {"norm_groups": 4}})
    norms = [m for m in normed.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 8 and {norm.num_groups for norm in norms} == {4}
    assert not [m for m in plain.modules() if isinstance(m, nn.GroupNorm)]
    with torch.no_grad():
        assert normed(images())[0].scores.isfinite().all()
    with pytest.raises(UserError, match="norm_groups = 7 does not divide"):
        small_detector(detector={"changes": {"norm_groups": 7}})
    with pytest.raises(UserError, match="for RetinaNet's head"):
        small_detector("maskrcnn", detector={"changes": {"norm_groups": 4}})


def test_relu_in_front_of_p7():
    for profile in ("torchvision", "mmdet"):
        model = small_detector(detector={"profile": profile})
        seen = []
        model.neck.fpn_convs[4].register_forward_hook(
            lambda m, inputs, out, seen=seen: seen.append(inputs[0])
        )
        with torch.no_grad():
            pyramid = model.run(images()).pyramid
        p6 = pyramid[3]
        assert (p6 < 0).any()
        assert torch.equal(seen[0], p6.relu() if profile == "torchvision" else p6)


def test_anchors_of_torchvision_where_its_strides_are_right():
    sizes_ = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
    theirs = AnchorGenerator(sizes_, ((0.5, 1.0, 2.0),) * 5)
    maps = [torch.zeros(2, 1, 256 // s, 512 // s) for s in (8, 16, 32, 64, 128)]
    listed = image_list(torch.zeros(2, 3, 256, 512), None)
    for one, other in zip(retina_anchors(rounded=True)(listed, maps), theirs(listed, maps), strict=True):
        torch.testing.assert_close(one, other)


def test_exact_anchors():
    """Areas are the squares of the sides, ratios exact; at the origin the first cell is centered on 0."""
    listed = image_list(torch.zeros(1, 3, 64, 64), None)
    maps = [torch.zeros(1, 1, -(-64 // s), -(-64 // s)) for s in (8, 16, 32, 64, 128)]
    boxes = retina_anchors(rounded=False)(listed, maps)[0]
    wide, tall = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    sides = torch.tensor([32 * 2 ** (i / 3) for i in range(3)])
    torch.testing.assert_close((wide * tall)[:9].sqrt(), sides.repeat(3))
    torch.testing.assert_close((tall / wide)[:9], torch.tensor([0.5] * 3 + [1.0] * 3 + [2.0] * 3))
    torch.testing.assert_close(boxes[:9, :2], -boxes[:9, 2:])
    torch.testing.assert_close(boxes[9:18] - boxes[:9], torch.tensor([8.0, 0, 8, 0]).expand(9, 4))
    rounded = retina_anchors(rounded=True)(listed, maps)[0]
    assert (rounded == rounded.round()).all() and not torch.equal(rounded, boxes)


def test_strides_do_not_follow_rounded_sizes():
    """At 800 pixels torchvision has strides 61 and 114 for P6 and P7."""
    listed = image_list(torch.zeros(1, 3, 800, 800), None)
    maps = [torch.zeros(1, 1, s, s) for s in (100, 50, 25, 13, 7)]
    for make in (retina_anchors, rpn_anchors):
        anchors = make(rounded=False)(listed, maps)[0]
        last = anchors[-1, :2] + anchors[-1, 2:]
        assert last.tolist() == [2 * 6 * (128 if make is retina_anchors else 64)] * 2


def focal(logits, target):
    p = logits.sigmoid()
    weight = torch.where(target > 0, 0.25 * (1 - p) ** 2, 0.75 * p**2)
    return weight * nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")


@pytest.mark.parametrize("profile", ["torchvision", "mmdet"])
def test_what_retinanets_loss_is_divided_by(profile):
    model = small_detector(detector={"profile": profile})
    batch = images(3)
    truth = [things((8, 8, 40, 40)), things((0, 0, 60, 60), (40, 10, 90, 50)), things()]
    with torch.no_grad():
        losses = model.loss(batch, sizes(batch), truth)
        pyramid = model.run(batch).pyramid
        outputs = model.head.outputs(pyramid)
        anchors = model.head.anchor_generator(image_list(batch, None), list(pyramid))
    sums, distances, counts = [], [], []
    for i, one in enumerate(truth):
        if len(one.boxes):
            from torchvision.ops import box_iou

            found = model.head.proposal_matcher(box_iou(one.boxes, anchors[i]))
        else:
            found = torch.full((len(anchors[i]),), -1)
        target = torch.zeros_like(outputs["cls_logits"][i])
        hit = found >= 0
        target[hit, one.labels[found[hit]]] = 1
        sums.append(focal(outputs["cls_logits"][i], target)[found != -2].sum())
        wanted = model.head.box_coder.encode_single(one.boxes[found[hit]], anchors[i][hit])
        distances.append((outputs["bbox_regression"][i][hit] - wanted).abs().sum())
        counts.append(max(1, int(hit.sum())))
    assert counts[0] != counts[1] and counts[2] == 1
    for name, values in (("classification", sums), ("boxes", distances)):
        each = sum(v / n for v, n in zip(values, counts, strict=True)) / 3
        wanted = each if profile == "torchvision" else sum(values) / sum(counts)
        torch.testing.assert_close(losses[name], wanted)


def test_most_detections():
    model = small_detector(detector={"changes": {"detections": 3}})
    nn.init.zeros_(model.head.head.classification_head.cls_logits.bias)  # all scores are near one half
    with torch.no_grad():
        assert [len(one.boxes) for one in model(images())] == [3, 3]


@pytest.mark.parametrize("aligned", [False, True])
def test_region_pooling(aligned):
    features = {str(i): torch.randn(1, 2, 64 >> i, 64 >> i) for i in range(4)}
    boxes = torch.tensor([[3.0, 5, 60, 70], [10, 20, 250, 256]])
    ours = RoiPool(7, aligned=aligned)(features, [boxes])
    for i, level in enumerate((0, 2)):  # sides near 61 and 238: the first on P2, the second on P4
        region = torch.cat([torch.zeros(1), boxes[i]])[None]
        ratio = 0 if aligned else 2
        wanted = roi_align(features[str(level)], region, 7, 1 / (4 << level), ratio, aligned)[0]
        torch.testing.assert_close(ours[i], wanted)


def test_boxes_of_regions_by_l1_or_smooth():
    logits, labels = torch.zeros(3, 4), torch.tensor([0, 2, 1])
    boxes, deltas = torch.full((3, 16), 0.05), torch.zeros(3, 4)
    assert box_losses(logits, boxes, labels, deltas, 0.0)["boxes"].item() == pytest.approx(8 * 0.05 / 3)
    smooth = box_losses(logits, boxes, labels, deltas, 1 / 9)["boxes"].item()
    assert smooth == pytest.approx(8 * 0.5 * 0.05**2 * 9 / 3)


def test_masks_to_be_learned():
    """Half a pixel on, a region of whole pixels gives the pixels themselves, 0 or 1."""
    masks = torch.zeros(1, 16, 16, dtype=torch.uint8)
    masks[0, 4:8, 4:6] = 1
    region, first = torch.tensor([[4.0, 4, 8, 8]]), torch.zeros(1, dtype=torch.int64)
    exact = mask_target(masks, region, first, 4, aligned=True)
    assert exact.tolist() == [[[1.0, 1, 0, 0]] * 4]
    shifted = mask_target(masks, region, first, 4, aligned=False)
    assert ((shifted > 0) & (shifted < 1)).any()


@pytest.mark.parametrize("profile", ["torchvision", "mmdet"])
def test_proposals_kept_in_training(profile):
    model = small_detector("maskrcnn", detector={"profile": profile}).train()
    assert model.head.rpn.post_nms_top_n() == (2000 if profile == "torchvision" else 1000)
    model.eval()
    assert model.head.rpn.post_nms_top_n() == 1000


@pytest.mark.parametrize("kind", KINDS)
def test_batch_norms_frozen_or_not(kind):
    for profile, frozen in (("torchvision", True), ("mmdet", False)):
        model = small_detector(kind, detector={"profile": profile}).train()
        before = {n: b.clone() for n, b in model.backbone.named_buffers()}
        model(images()) if model.eval() is None else model.train().run(images())
        after = dict(model.backbone.named_buffers())
        assert all(torch.equal(before[n], after[n]) for n in before) == frozen
        assert model.backbone.bn1.weight.requires_grad != frozen


def test_official_start_has_no_prior():
    ours, theirs = small_detector(), small_detector(official=True)
    bias = [m.head.head.classification_head.cls_logits.bias.mean().item() for m in (ours, theirs)]
    assert bias[0] == pytest.approx(-4.595, abs=1e-3)
    assert abs(bias[1]) < 0.1
