"""SC-CLIP, ResCLIP and ProxyCLIP on what their official code cannot take, and what users may get wrong."""

import numpy as np
import pytest
import torch

import denseclip
from clip_support import tiny_clip
from denseclip import UserError
from denseclip.data.transforms import ResizeRule
from denseclip.segment import calibration, refine
from denseclip.segment.proxy import load_proxy
from denseclip.segment.segmenter import Segmenter
from denseclip.segment.settings import PRESETS, DenseOptions, Settings
from fixtures_support import training_free_weights

METHODS = ("sc-clip", "resclip", "resclip-sclip", "resclip-clearclip")
WORDS = ["cat", "dog", "grass"]


def picture(height, width, seed=3):
    return training_free_weights.picture(height, width, seed)


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    shapes = training_free_weights.dino_shapes(64, 2, 8, 32)
    state = {k: torch.from_numpy(v) for k, v in training_free_weights.fill(shapes, 5).items()}
    path = tmp_path_factory.mktemp("dino") / "dino.pth"
    torch.save(state, path)
    return path


def segmenter(method, dino=None):
    options = PRESETS[method] if dino is None else DenseOptions(mix="proxy", proxy=str(dino))
    return Segmenter(tiny_clip("vit"), WORDS, Settings(dense=options))


@pytest.mark.parametrize("size", [(16, 16), (16, 64), (33, 17), (70, 150)])
@pytest.mark.parametrize("method", METHODS)
def test_any_shape_and_flat_pictures_give_finite_scores(method, size):
    model = segmenter(method)
    model.configure(resize=ResizeRule.parse("none"))
    for image in (picture(*size), np.full((*size, 3), 128, np.uint8)):
        decoding = model.decoding(image)
        assert decoding.maps[0].isfinite().all()
        assert model.segment(image).mask.shape == size


@pytest.mark.parametrize("size", [(16, 16), (40, 64), (70, 150)])
def test_proxyclip_on_any_shape_and_flat_pictures(size, dino):
    model = segmenter("proxyclip", dino)
    model.configure(resize=ResizeRule.parse("none"))
    for image in (picture(*size), np.full((*size, 3), 128, np.uint8)):
        assert model.decoding(image).maps[0].isfinite().all()
        assert model.segment(image).mask.shape == size


@pytest.mark.parametrize("method", METHODS)
def test_pictures_of_a_batch_do_not_see_each_other(method):
    model = segmenter(method)
    images = [picture(64, 96, 1), picture(64, 96, 2)]
    together = model.encode_batch(images)
    for image, one in zip(images, together, strict=True):
        alone = model.decoding(model.encode(image)).maps[0]
        torch.testing.assert_close(model.decoding(one).maps[0], alone, atol=1e-5, rtol=0)


def test_words_may_change_after_encoding_though_feedback_depends_on_them():
    model = segmenter("resclip")
    encoded = model.encode(picture(64, 96))
    model.set_classes(["sky", "road", "cat", "tree"])
    later = model.decoding(encoded).maps[0]
    torch.testing.assert_close(later, model.decoding(picture(64, 96)).maps[0])
    assert later.shape[1] == 4


def test_a_share_of_the_tokens_is_replaced_and_none_of_equal_ones():
    x = torch.randn(2, 196, 16, generator=torch.Generator().manual_seed(0))
    assert calibration.outliers(x).sum(1).tolist() == [10, 10]
    assert not calibration.outliers(torch.ones(1, 50, 8)).any()
    assert not calibration.outliers(torch.ones(1, 1, 8)).any()
    assert calibration.outliers(x[:, :12]).sum(1).max() <= 1


def test_an_alike_picture_attends_to_itself():
    shares = calibration.centered_softmax(torch.full((1, 4, 4), 0.97), 3.0, 1.2)
    torch.testing.assert_close(shares[0], torch.eye(4))


def test_feedback_of_one_patch_and_of_one_label():
    assert calibration.agreement(torch.zeros(1, 1, dtype=torch.int64)).tolist() == [[1.0]]
    matrix = calibration.feedback(torch.zeros(3, 4, dtype=torch.int64))
    assert matrix.shape == (13, 13)
    assert matrix[0].eq(0).all() and matrix.isfinite().all()


def test_pamr_refines_each_class_by_itself(monkeypatch):
    guide = torch.rand(1, 3, 40, 30, generator=torch.Generator().manual_seed(1))
    scores = torch.rand(1, 5, 40, 30, generator=torch.Generator().manual_seed(2))
    together = refine.pamr(scores, guide)
    monkeypatch.setattr(refine, "MOST_SCORES", 1)
    torch.testing.assert_close(refine.pamr(scores, guide), together)
    torch.testing.assert_close(refine.pamr(torch.ones(1, 1, 40, 30), guide), torch.ones(1, 1, 40, 30))
    torch.testing.assert_close(refine.pamr(scores, guide * 7 + 3), together, atol=1e-5, rtol=0)


def test_timm_and_official_names_are_one_tower(dino, tmp_path):
    timm = pytest.importorskip("timm")
    tower = load_proxy(str(dino))
    other = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=1, num_classes=0
    )
    other.load_state_dict(torch.load(dino))
    torch.save(other.state_dict(), tmp_path / "timm.pth")
    image = torch.rand(1, 3, 32, 32)
    ours, grid = load_proxy(str(tmp_path / "timm.pth"))(image)
    assert grid == (4, 4)
    torch.testing.assert_close(ours, tower(image)[0])
    torch.testing.assert_close(ours, other.eval().forward_features(image)[:, 1:], atol=1e-5, rtol=0)


def test_a_tower_lacks_nothing_and_has_nothing_left(dino, tmp_path):
    state = torch.load(dino)
    bad = tmp_path / "bad.pth"
    torch.save({k: v for k, v in state.items() if k != "blocks.1.mlp.fc2.bias"}, bad)
    with pytest.raises(UserError, match="missing"):
        load_proxy(str(bad))
    torch.save(state | {"extra.weight": torch.ones(1)}, bad)
    with pytest.raises(UserError, match="unknown"):
        load_proxy(str(bad))
    torch.save({"a": torch.ones(1)}, bad)
    with pytest.raises(UserError, match="no DINO"):
        load_proxy(str(bad))
    with pytest.raises(UserError, match="heads"):
        load_proxy(str(dino), heads=3)


def test_options_that_do_not_go_together():
    with pytest.raises(UserError, match="proxyclip needs"):
        segmenter("proxyclip")
    with pytest.raises(UserError, match="proxyclip"):
        DenseOptions(proxy="dino.pth")
    with pytest.raises(UserError, match="rcs"):
        DenseOptions(rcs=(2.0, 0.3))
    with pytest.raises(UserError, match="ViT"):
        Segmenter(tiny_clip("rn"), WORDS, Settings(dense=PRESETS["sc-clip"]))


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16(method):
    model = denseclip.load(
        "tiny-vit", WORDS, preset=method, precision="bf16", device="cpu", cache=False, resize="none"
    )
    assert model.decoding(picture(64, 96)).maps[0].isfinite().all()
