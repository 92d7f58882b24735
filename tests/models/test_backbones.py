"""Backbones by name: ours, timm's, their sizes, and weights that cannot be had."""

import pytest
import torch

from denseclip.clip.convert import from_timm
from denseclip.errors import UserError
from denseclip.models import backbones
from denseclip.models.backbones import RESNETS, ResNet, build_backbone


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("timm:mobilenetv3_small_050", 8),
        ("timm:convnext_atto", 8),
        ("timm:resnet10t", 8),
        ("timm:repvit_m1", 32),  # cannot be dilated
    ],
)
def test_timm_maps_are_as_announced(name, last):
    net = build_backbone(name).eval()
    with torch.no_grad():
        maps = net(torch.rand(1, 3, 64, 96))
    assert net.reductions[-1] == last
    assert [m.shape[1] for m in maps] == list(net.channels)
    assert [(m.shape[2], m.shape[3]) for m in maps] == [(64 // r, 96 // r) for r in net.reductions]


def test_ours_by_name():
    net = build_backbone("resnet18", output_stride=16)
    assert isinstance(net, ResNet)
    assert net.reductions == (4, 8, 16, 16)


def test_imagenet_weights_land_where_timm_has_them(monkeypatch):
    """timm's net of the same architecture computes the same last map as ours with its weights."""
    import timm

    source = timm.create_model("resnet50c", num_classes=10).eval()
    monkeypatch.setattr(backbones, "create_timm", lambda name, pretrained: source)
    ours = build_backbone("resnet50", output_stride=32, pretrained=True).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images)[3], source.forward_features(images), rtol=1e-4, atol=1e-4)


def test_every_timm_weight_is_used_or_known():
    """A name that the map does not know reaches the strict loading, which refuses it."""
    state = {"layer1.0.odd.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}
    assert set(from_timm(state)) == {"layer1.0.odd.weight"}
    with pytest.raises(RuntimeError, match=r"layer1\.0\.odd\.weight"):
        ResNet(RESNETS["resnet50"]).load_state_dict(from_timm(state))


def test_missing_hub_is_one_line(monkeypatch):
    import timm

    def refuse(name, pretrained=False, **options):
        raise OSError("no\nroute to host")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(UserError, match=r"resnet101c cannot be fetched \(no route to host\)") as caught:
        build_backbone("resnet101", pretrained=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet19", {}, "backbone 'resnet19' is unknown; choose resnet18"),
        ("timm:resnet5", {}, "timm has no model 'resnet5'; did you mean resnet50"),
        ("timm:nothing_like_it", {}, "timm has no model 'nothing_like_it'"),
        ("resnet18", {"pretrained": True}, "take timm:resnet18"),
        ("timm:resnet18", {"output_stride": 7}, "output stride 7"),
    ],
)
def test_mistakes(name, options, message):
    with pytest.raises(UserError, match=message):
        build_backbone(name, **options)
