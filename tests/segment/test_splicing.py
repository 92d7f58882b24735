"""Windows put together by their features."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clip_support import tiny_clip
from denseclip import UserError
from denseclip.loading import make_settings
from denseclip.segment.segmenter import Segmenter
from fixtures_support import training_free_weights


def segmenter(kind="vit", **options):
    return Segmenter(
        tiny_clip(kind),
        ["cat", "dog"],
        make_settings(templates="1", resize="none", fusion="features", **options),
    )


def test_one_window_is_the_whole_picture():
    image = training_free_weights.picture(64, 96, 1)
    whole = segmenter().encode(image).features[0].map
    one = segmenter(slide="128/64").encode(image)
    assert len(one.features) == 1
    torch.testing.assert_close(one.features[0].map, whole, atol=1e-5, rtol=0)


def test_features_are_averaged_before_the_last_norm():
    image = training_free_weights.picture(64, 96, 1)
    model = segmenter(slide="64/32")
    encoded = model.encode(image)
    (features,) = encoded.features
    assert features.map.shape[2:] == (4, 6)
    torch.testing.assert_close(features.map.norm(dim=1), torch.ones(1, 4, 6))
    raw = [model.encoder.encode(model_input(model, image, left), raw=True).map for left in (0, 32)]
    both = (raw[0][..., 2:] + raw[1][..., :2]) / 2
    expected = torch.cat([raw[0][..., :2], both, raw[1][..., 2:]], dim=3)
    ours = model.encoder.finish(expected).map
    torch.testing.assert_close(features.map, ours, atol=1e-5, rtol=0)
    assert model.segment(image).mask.shape == (64, 96)


def model_input(model, image, left):
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.encoder.stats.mean, model.encoder.stats.std))
    pixels = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    return ((pixels - mean) / std)[None, :, :, left : left + 64]


def test_mirrored_views_lie_on_the_plain_ones():
    image = training_free_weights.picture(64, 96, 1)
    symmetric = np.concatenate([image, image[:, ::-1]], axis=1)
    model = segmenter(slide="64/32", flip=True)
    heat = model.decoding(symmetric).heat(0)
    np.testing.assert_allclose(heat, heat[:, ::-1], atol=1e-4)
    plain, mirrored = model.encode(symmetric).features
    assert F.cosine_similarity(plain.map, mirrored.map, dim=1).min() > 0.999


def test_what_does_not_go_together():
    with pytest.raises(UserError, match="whole patches"):
        segmenter(slide="50/30").encode(training_free_weights.picture(64, 96, 1))
    with pytest.raises(UserError, match="ResNet"):
        segmenter("rn")
    with pytest.raises(UserError, match="key smoothing"):
        segmenter(refine="ks")
    with pytest.raises(UserError, match="fusion 'both'"):
        make_settings(fusion="both")
