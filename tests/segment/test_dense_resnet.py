"""A ResNet's finer map: the same weights, evaluated twice as densely, in the right place."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clip_support import load_openai_checkpoint, tiny_clip
from denseclip.errors import UserError
from denseclip.segment.attention import DenseEncoder
from denseclip.segment.settings import DenseOptions, preset

ARCH = {"type": "rn", "layers": [1, 1, 1, 3], "width": 16, "out": 32, "image_size": 64}


@pytest.fixture(scope="module")
def deep():
    return load_openai_checkpoint(ARCH, seed=3)


def test_every_second_cell_of_the_finer_map_is_the_native_map_of_a_shifted_picture(deep):
    images = torch.randn(1, 3, 112, 144, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        fine = deep.visual.last_map(images, stride=16)
        native = deep.visual.last_map(F.pad(images, (8, 8, 8, 8), mode="replicate"))
    assert fine.shape[-2:] == (7, 9)
    assert native.shape[-2:] == (4, 5)
    scale = native.abs().max().item()
    torch.testing.assert_close(fine[..., ::2, ::2], native, atol=1e-5 * scale, rtol=0)


def test_a_finer_cell_stands_where_its_pixels_are():
    """Mirroring the picture mirrors the map: no half cell is lost on one side."""
    clip = tiny_clip("rn")
    encoder = DenseEncoder(clip, preset("maskclip-dilated"))
    images = torch.zeros(1, 3, 160, 160)
    images[..., 64:96, 64:96] = 3.0  # a square in the middle
    map_ = encoder.encode(images).map
    plain = encoder.encode(torch.zeros(1, 3, 160, 160)).map
    change = (map_ - plain).norm(dim=1)[0]  # (10, 10)
    rows = torch.arange(10) + 0.5
    center = (change.sum(1) @ rows / change.sum()).item()
    assert map_.shape[-2:] == (10, 10)
    assert encoder.stride == 16
    assert abs(center - 5.0) < 0.25


@pytest.mark.parametrize("name", ["maskclip", "maskclip-dilated"])
def test_folded_batch_norms_change_nothing_but_rounding(deep, name):
    images = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    folded = deep.folded()
    expected, found = (DenseEncoder(clip, preset(name)).encode(images).map for clip in (deep, folded))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.visual.modules())
    assert any(isinstance(part, nn.BatchNorm2d) for part in deep.visual.modules())
    assert folded.fingerprint == deep.fingerprint
    assert tiny_clip("vit").folded() is tiny_clip("vit")


def test_bad_strides():
    with pytest.raises(UserError, match="stride 8 is not possible; choose 16 or 32"):
        DenseOptions(stride=8)
    with pytest.raises(UserError, match="is a ViT, its map has one cell a patch; leave out stride"):
        DenseEncoder(tiny_clip("vit"), preset("maskclip-dilated"))
