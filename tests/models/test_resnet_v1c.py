"""ResNetV1c: the official maps, output strides, and what dilation must not change."""

import numpy as np
import pytest
import torch

from denseclip.errors import UserError
from denseclip.models.backbones import RESNETS, ResNet, ResNetShape
from fixtures_support import cases
from models_support import load_official, named_shapes, tensor

TINY = ResNetShape((2, 1, 2, 2), stem=8, base=4)


def shape_of(names: dict[str, tuple[int, ...]]) -> ResNetShape:
    """The architecture that a case's parameter names imply."""
    blocks = [
        len({n.split(".")[2] for n in names if n.startswith(f"backbone.layer{i}.")}) for i in (1, 2, 3, 4)
    ]
    return ResNetShape(
        tuple(blocks),
        bottleneck="backbone.layer1.0.conv3.weight" in names,
        stem=names["backbone.stem.6.weight"][0],
        base=names["backbone.layer1.0.conv1.weight"][0],
    )


@pytest.mark.fixtures
@pytest.mark.parametrize("path", cases("maskclip", "backbone_resnet*.npz"), ids=lambda p: p.stem)
def test_official_maps(path):
    stored = np.load(path)
    images = tensor(stored, "image")
    net = ResNet(shape_of(named_shapes(stored)), images.shape[2] // stored["out3"].shape[2])
    load_official(net, stored, "backbone.")
    with torch.no_grad():
        maps = net.eval()(images)
    for i, ours in enumerate(maps):
        np.testing.assert_allclose(ours.numpy(), stored[f"out{i}"], atol=1e-4, rtol=1e-4)


def randomise(net: torch.nn.Module) -> None:
    """Norms with statistics, and none of them zero, in eval mode."""
    torch.manual_seed(0)
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.running_mean, std=0.1)
    net.eval()


@pytest.mark.parametrize("bottleneck", [True, False])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_sizes_follow_the_output_stride(stride, bottleneck):
    net = ResNet(ResNetShape((1, 1, 1, 1), bottleneck, stem=8, base=4), stride)
    maps = net.eval()(torch.zeros(1, 3, 65, 98))
    assert net.reductions == tuple(min(4 * 2**i, stride) for i in range(4))
    assert net.channels == tuple(m.shape[1] for m in maps)
    for m, reduction in zip(maps, net.reductions, strict=True):
        assert m.shape[2:] == (-(-65 // reduction), -(-98 // reduction))


def test_dilation_keeps_what_the_strided_net_computes():
    """With one block in stage 4 (dilation 1 in its first block) only the sampling grid is finer."""
    shape = ResNetShape((1, 1, 1, 1), stem=8, base=4)
    strided, dilated = ResNet(shape, 32), ResNet(shape, 16)
    randomise(strided)
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(
        dilated.eval()(images)[3][..., ::2, ::2], strided(images)[3], rtol=1e-4, atol=1e-5
    )


def test_later_blocks_see_further():
    """In stage 4 of stride 8: first block dilation 2, later ones 4."""
    net = ResNet(TINY, 8)
    assert [block.conv2.dilation[0] for block in net.layer4] == [2, 4]
    assert [block.conv2.dilation[0] for block in net.layer3] == [1, 2]


def test_every_block_starts_as_its_shortcut():
    net = ResNet(TINY).eval()
    block = net.layer1[1]
    x = torch.rand(1, net.channels[0], 5, 5)
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize(("name", "millions"), [("resnet18", 11.2), ("resnet50", 23.5), ("resnet101", 42.5)])
def test_sizes_of_the_known_nets(name, millions):
    with torch.device("meta"):
        net = ResNet(RESNETS[name])
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_impossible_output_stride():
    with pytest.raises(UserError, match="output stride 4 is not possible; choose 8, 16 or 32"):
        ResNet(TINY, 4)
