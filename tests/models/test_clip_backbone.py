"""CLIP's image tower as a backbone: its own maps at stride 32, the same on a finer grid below."""

import pytest
import torch

from clip_support import load_openai_checkpoint
from denseclip.models.student import ClipBackbone

ARCH = {"type": "rn", "layers": [1, 2, 2, 2], "width": 16, "out": 32, "image_size": 64}


@pytest.fixture(scope="module")
def tower():
    return load_openai_checkpoint(ARCH, 5).visual


@pytest.fixture(scope="module")
def images():
    return torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def backbone(tower, output_stride):
    net = ClipBackbone(tower.layers, tower.width, output_stride=output_stride)
    net.load_state_dict({n: t for n, t in tower.state_dict().items() if not n.startswith("attnpool.")})
    return net.eval()


def test_at_stride_32_it_is_the_tower(tower, images):
    with torch.no_grad():
        for ours, theirs in zip(backbone(tower, 32)(images), tower.maps(images), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [8, 16])
def test_dilated_it_computes_the_same_on_a_finer_grid(tower, images, stride):
    net = backbone(tower, stride)
    step = 32 // stride
    with torch.no_grad():
        fine, coarse = net(images)[-1], tower.maps(images)[-1]
    assert fine.shape[2:] == (64 // stride, 96 // stride)
    assert net.reductions[-1] == stride
    torch.testing.assert_close(fine[..., ::step, ::step], coarse, rtol=1e-4, atol=1e-4)


def test_all_of_it_can_be_trained(tower, images):
    net = backbone(tower, 8)
    assert all(p.requires_grad for p in net.parameters())
    before = tower.conv1.weight.clone()
    with torch.no_grad():
        net.conv1.weight.zero_()
    assert torch.equal(tower.conv1.weight, before)
