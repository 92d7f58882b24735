"""Detectors from CLIPs: sizes, losses without boxes, words, official names."""

import pytest
import torch
from small_denseclip import CLASSES, RESNET, VIT, images, tokenize
from small_detectors import KINDS, detector_from_clip, sizes, small_detector, things

from denseclip.clip.convert import MMDET
from denseclip.detection.model import box_target, load_official_detector, score_map_loss
from denseclip.errors import UserError
from denseclip.models.encoders import Heads

HEADS = Heads(pool=4, vit=2, text=2, decoder=2)


@pytest.mark.parametrize("language", [True, False])
@pytest.mark.parametrize("tower", ["rn", "vit"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_clip_learns_and_finds(kind, tower, language):
    model = detector_from_clip(kind, tower, language=language).train()
    batch = images()
    losses = model.loss(batch, sizes(batch), [things((8, 8, 40, 40), (30, 20, 90, 60)), things()])
    names = {"classification", "boxes"} | ({"scores"} if language else set())
    names |= {"masks", "rpn_objectness", "rpn_boxes"} if kind == "maskrcnn" else set()
    assert losses.keys() == names
    sum(losses.values()).backward()
    lacking = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not lacking
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert language == any(n.startswith("contexts") for n, _ in model.named_parameters())
    with torch.no_grad():
        found = model.eval()(batch)
    for one in found:
        assert ((one.boxes[:, 2:] - one.boxes[:, :2]) >= 0).all()
        assert (one.labels >= 0).all() and (one.labels < len(CLASSES)).all()
        assert one.scores.tolist() == sorted(one.scores.tolist(), reverse=True)
        assert (one.masks is not None) == (kind == "maskrcnn")


def test_vit_has_a_simple_pyramid():
    """All four maps are made of its last block."""
    model = detector_from_clip("retinanet", "vit")
    assert model.backbone.out_indices == (2, 2, 2, 2)
    sides = [(8, 12), (4, 6), (2, 3)]
    assert [tuple(one.shape[2:]) for one in model.backbone(images()).maps[1:]] == sides
    finest = detector_from_clip("maskrcnn", "vit").backbone(images()).maps[0]
    assert tuple(finest.shape[2:]) == (16, 24)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_without_boxes(kind):
    model = small_detector(kind).train()
    batch = images()
    losses = model.loss(batch, sizes(batch), [things(), things()])
    assert losses["scores"] == 0
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_target_of_boxes():
    target, counts = box_target([things((9.9, 4, 17.2, 30), (0, 0, 3, 3), (80, 56, 200, 99))], 3, (16, 24))
    assert target[0, 0].nonzero().tolist() == [[y, x] for y in range(1, 7) for x in (2, 3)]
    assert not target[0, 1].any()  # below a cell
    assert target[0, 2].nonzero().tolist() == [
        [14, x] for x in range(20, 23)
    ]  # never the last row and column
    assert torch.equal(counts[0, 0], target[0].amax(0))


def test_loss_equals_the_official_form():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 6, generator=generator) * 3
    target, counts = box_target([things((8, 8, 40, 40)), things((0, 0, 90, 60), (4, 4, 30, 30))], 3, (16, 24))
    full = torch.nn.functional.interpolate(logits, (16, 24), mode="bilinear")
    each = torch.nn.functional.binary_cross_entropy(full.sigmoid(), target, reduction="none")
    wanted = (each * counts).sum() / (counts.expand_as(each)).sum()
    torch.testing.assert_close(score_map_loss(logits, target, counts), wanted)


def test_loss_survives_half_precision():
    """The probabilities' form is infinite where the logits are large."""
    logits = torch.full((1, 1, 2, 2), 300.0, dtype=torch.bfloat16)
    target, counts = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    assert score_map_loss(logits, target, counts) == 300


def test_positions_cropped_or_interpolated():
    cropped = small_detector(positions="crop")
    with torch.no_grad():
        cropped.run(images(1, 128, 128))
        with pytest.raises(UserError, match="larger than the 4x4 positions"):
            cropped.run(images(1, 64, 160))
        small_detector().run(images(1, 64, 160))


def official(model):
    """Its tensors as the official framework names them."""
    import re

    found = {}
    for name, tensor in model.state_dict().items():
        new = name
        for theirs, ours in MMDET:
            pattern = re.sub(r"\\1", "NUMBER", ours)
            pattern = re.escape(pattern).replace("NUMBER", r"(\d+)")
            match = re.match(pattern, name)
            if match:
                plain = theirs.removeprefix("^").replace(r"(\d+)", "{}").replace("\\", "")
                new = plain.format(*match.groups()) + name[match.end() :]
        if new.startswith("roi_head.bbox_head.fc_cls"):
            tensor = tensor.roll(-1, 0)
        if new.startswith(("roi_head.bbox_head.fc_reg", "roi_head.mask_head.conv_logits")):
            tensor = tensor[4 if "fc_reg" in new else 1 :]
        found[new] = tensor
    return found


@pytest.mark.parametrize("language", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_official_file(tmp_path, kind, language):
    ours = small_detector(kind, detector={"profile": "mmdet"}, official=True, language=language)
    state = official(ours)
    assert not any(name.startswith("head.") for name in state)
    path = tmp_path / "epoch_12.pth"
    torch.save({"meta": {"epoch": 12}, "state_dict": state}, path)
    loaded = load_official_detector(path, CLASSES, tokenize=tokenize if language else None, heads=HEADS)
    assert loaded.config.official and loaded.config.positions == "crop" and loaded.detector.profile == "mmdet"
    with torch.no_grad():
        for one, other in zip(loaded(images()), ours(images()), strict=True):
            torch.testing.assert_close(one.boxes, other.boxes)
            torch.testing.assert_close(one.scores, other.scores)
            assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_counts(kind):
    state = official(small_detector(kind, detector={"profile": "mmdet"}, official=True))

    def load(changed, classes=CLASSES):
        return load_official_detector(changed, classes, tokenize=tokenize, heads=HEADS)

    load({n: t for n, t in state.items() if not n.endswith("num_batches_tracked")})
    part = "bbox_head.retina_reg.bias" if kind == "retinanet" else "roi_head.mask_head.convs.2.conv.bias"
    with pytest.raises(UserError, match=r"missing |lacks "):
        load({n: t for n, t in state.items() if n != part})
    with pytest.raises(UserError, match="unknown clip_head"):
        load({**state, "clip_head.weight": torch.zeros(3)})
    with pytest.raises(UserError, match="has 3 classes, 2 names are given"):
        load(state, CLASSES[:2])
    with pytest.raises(UserError, match="is no RetinaNet or Mask R-CNN"):
        load({n: t for n, t in state.items() if not n.startswith(("bbox_head", "rpn_head"))})


def test_any_shapes():
    assert small_detector(shapes=VIT).map_channels[2] == 32 + len(CLASSES)
    assert small_detector(shapes=RESNET).map_channels[3] == 256 + len(CLASSES)
