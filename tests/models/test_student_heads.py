"""The three heads of MaskCLIP+: official features, eval and train, and sizes they must cope with."""

from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from denseclip.errors import UserError
from denseclip.models.backbones import RegionMean
from denseclip.models.heads import HeadKind, WideConv2d, build_head
from fixtures_support import cases
from models_support import load_official, named_shapes, tensor

CHANNELS, REDUCTIONS = (6, 8), (4, 8)


def head_of(path, stored):
    """The head that a case's file name and parameters tell."""
    kind = next(kind for kind in get_args(HeadKind) if path.stem.startswith(f"head_{kind}"))
    names = named_shapes(stored)
    fine = names.get("c1_bottleneck.conv.weight", (48,))[0]
    channels = (stored["c1"].shape[1], stored["x"].shape[1])
    return build_head(kind, channels, REDUCTIONS, stored["text"].shape[1], fine_channels=fine)


@pytest.mark.fixtures
@pytest.mark.parametrize("path", cases("maskclip", "head_*.npz"), ids=lambda p: p.stem)
def test_official_features(path):
    stored = np.load(path)
    head = head_of(path, stored)
    load_official(head, stored)
    maps = [tensor(stored, "c1"), tensor(stored, "x")]
    with torch.no_grad():
        ours = head.eval()(maps)
        np.testing.assert_allclose(ours.numpy(), stored["feat_eval"], atol=1e-4, rtol=1e-4)
        logits = torch.einsum("bdhw,kd->bkhw", ours, tensor(stored, "text"))
        np.testing.assert_allclose(logits.numpy(), stored["logits_eval"], atol=1e-4, rtol=1e-4)
        ours = head.train()(maps)
        np.testing.assert_allclose(ours.numpy(), stored["feat_train"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(6, 6), (7, 9), (4, 13), (1, 5)])
def test_region_means_are_adaptive_pooling(side, size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(RegionMean(side)(x), F.adaptive_avg_pool2d(x, side))


@pytest.mark.parametrize("kind", get_args(HeadKind))
def test_output_size_channels_and_sign(kind):
    head = build_head(kind, CHANNELS, REDUCTIONS, 16)
    maps = [torch.randn(2, 6, 10, 14), torch.randn(2, 8, 5, 7)]
    features = head(maps)
    assert features.shape == (2, 16, *((10, 14) if kind == "deeplabv3plus" else (5, 7)))
    assert features.min() == 0


def test_fine_map_is_the_first_at_stride_4_or_coarser():
    """timm's mobile nets begin at stride 2."""
    head = build_head("deeplabv3plus", (3, 6, 8), (2, 4, 8), 16)
    maps = [torch.randn(2, 3, 20, 28), torch.randn(2, 6, 10, 14), torch.randn(2, 8, 5, 7)]
    assert head(maps).shape == (2, 16, 10, 14)


def test_unknown_head():
    with pytest.raises(UserError, match="head 'fcn' is unknown; choose one of aspp_v2, deeplabv3plus, psp"):
        build_head("fcn", CHANNELS, REDUCTIONS, 16)


@pytest.mark.parametrize(
    ("size", "dilation"), [((7, 9), 2), ((9, 5), 4), ((6, 6), 6), ((40, 3), 6), ((1, 1), 24)]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_wide_convolutions_are_ordinary_ones(size, dilation, dtype):
    torch.manual_seed(0)
    wide = WideConv2d(5, 4, 3, padding=dilation, dilation=dilation, bias=False).to(dtype)
    plain = torch.nn.Conv2d(5, 4, 3, padding=dilation, dilation=dilation, bias=False).to(dtype)
    plain.load_state_dict(wide.state_dict())
    outer = torch.randn(2, 4, *size, dtype=dtype)
    found = []
    for module in (wide, plain):
        x = torch.randn(2, 5, *size, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = module(x)
        out.backward(outer)
        found.append((out.detach(), x.grad, module.weight.grad))
    tolerance = {"atol": 1e-10, "rtol": 0} if dtype == torch.float64 else {"atol": 0.1, "rtol": 0.05}
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


def test_wide_convolutions_under_autocast():
    wide = WideConv2d(5, 4, 3, padding=6, dilation=6, bias=False)
    x = torch.randn(1, 5, 13, 13, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = wide(x)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert wide.weight.grad.dtype == x.grad.dtype == torch.float32
