"""Sizes and pixels against the official pipeline."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from denseclip.data.transforms import IMAGENET_MEAN, IMAGENET_STD, ResizeRule, normalize, resize_image
from denseclip.errors import UserError
from fixtures_support import cases


def official_cases():
    for path in cases("maskclip", "*preprocess*.npz"):
        with np.load(path) as data:
            for name in sorted({key.split("/")[0] for key in data.files if "/" in key}):
                group = {key.split("/")[1]: data[key] for key in data.files if key.startswith(f"{name}/")}
                yield pytest.param(group, id=f"{path.stem}-{name}")


@pytest.mark.fixtures
@pytest.mark.parametrize("case", list(official_cases()))
def test_equals_the_official_pipeline(case):
    expected = case["resized_bgr"][..., ::-1]
    keep_ratio = "scale" in case
    size = case["scale"].tolist() if keep_ratio else expected.shape[:2]
    found = resize_image(
        case["bgr"][..., ::-1], ResizeRule("long-short" if keep_ratio else "exact", tuple(size))
    )
    assert found.shape == expected.shape
    off = np.abs(found.astype(int) - expected)
    assert off.max() <= 1  # OpenCV builds round differently
    if "normalized_chw_rgb" in case:
        tensor = normalize(found, IMAGENET_MEAN, IMAGENET_STD)
        assert tensor.dtype == torch.float32
        np.testing.assert_allclose(tensor, case["normalized_chw_rgb"], atol=0.02 if off.any() else 1e-4)


@pytest.mark.parametrize(
    ("text", "shape", "target"),
    [
        ("2048x512", (375, 500), (512, 683)),
        ("512x2048", (500, 375), (683, 512)),
        ("2048x512", (100, 1000), (205, 2048)),  # the long side is the limit
        ("520x520", (375, 500), (390, 520)),
        ("long:520", (500, 375), (520, 390)),
        ("short:512", (100, 1000), (512, 5120)),
        ("exact:224x200", (375, 500), (224, 200)),
        ("none", (375, 500), (375, 500)),
        ("long:16", (1, 900), (1, 16)),
    ],
)
def test_target_sizes(text, shape, target):
    assert ResizeRule.parse(text).target(*shape) == target
    found = resize_image(np.zeros((*shape, 3), np.uint8), ResizeRule.parse(text))
    assert found.shape == (*target, 3)


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 3000), st.integers(1, 3000))
def test_the_papers_rule_fits_and_touches(height, width, a, b):
    rule = ResizeRule.parse(f"{a}x{b}")
    found = rule.target(height, width)
    assert max(found) <= max(a, b)
    assert min(found) <= max(1, min(a, b))
    assert max(found) == max(a, b) or min(found) == min(a, b)


@pytest.mark.parametrize("text", ["none", "short:512", "long:520", "2048x512", "exact:224x300"])
def test_rules_are_written_as_they_are_read(text):
    assert str(ResizeRule.parse(text)) == text
    assert ResizeRule.parse(str(ResizeRule.parse(text))) == ResizeRule.parse(text)


@pytest.mark.parametrize(
    "text", ["", "512", "short:", "short:0", "short:1x2", "exact:224", "big:3", "-3x5", "ax5", "none:3"]
)
def test_unreadable_rules_are_refused(text):
    with pytest.raises(UserError, match="cannot read the resize rule"):
        ResizeRule.parse(text)


def test_a_picture_of_the_right_size_is_not_touched():
    image = np.zeros((4, 6, 3), np.uint8)
    assert resize_image(image, ResizeRule("exact", (4, 6))) is image
