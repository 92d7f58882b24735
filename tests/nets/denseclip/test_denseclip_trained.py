"""A trained DenseCLIP behind the Segmenter, from a checkpoint's content."""

import numpy as np
import pytest
import torch
from small_denseclip import CLASSES, from_clip

from clip_support import tiny_clip
from denseclip.clip import ImageStats
from denseclip.dense.load import make_settings
from denseclip.dense.segmenter import Segmenter
from denseclip.errors import UserError
from denseclip.nets.denseclip.trained import TrainedDenseClip, contents_of

STATS = ImageStats((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def saved(model):
    return {
        "contents": contents_of(model, STATS),
        "model": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
    }


def trained(kind="rn", **options):
    model = from_clip(kind, **options)
    return model, TrainedDenseClip.of("run/last.pt", saved(model), torch.device("cpu"), torch.float32)


def picture():
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def frame():
    pixels = torch.from_numpy(picture()).permute(2, 0, 1).float() / 255
    return ((pixels - torch.tensor(STATS.mean)[:, None, None]) / torch.tensor(STATS.std)[:, None, None])[None]


@pytest.mark.parametrize("kind", ["rn", "vit"])
def test_own_classes_by_the_head(kind):
    model, wrapped = trained(kind)
    segmenter = Segmenter(wrapped, ["tree", "cat"], make_settings(resize="none"))
    with torch.no_grad():
        logits = model(frame())[0]
    np.testing.assert_allclose(segmenter.segment(picture()).scores, logits[[1, 0]], atol=2e-4)


@pytest.mark.parametrize("kind", ["rn", "vit"])
@pytest.mark.parametrize("prompting", ["post", "none"])
def test_other_words_by_the_score_map(kind, prompting):
    model, wrapped = trained(kind, prompting=prompting)
    segmenter = Segmenter(wrapped, ["cat", "a green sofa"], make_settings(resize="none"))
    with torch.no_grad():
        scores = model.with_words(["cat", "a green sofa"])(frame())[0]
    np.testing.assert_allclose(segmenter.segment(picture()).scores, scores, atol=2e-3)
    network, names = wrapped.network(segmenter._ontology, ())
    assert names == ("cat", "a green sofa")
    torch.testing.assert_close(network(frame())[0], scores)


def test_what_it_cannot_do_is_said():
    _, pre = trained(prompting="pre")
    assert Segmenter(pre, list(CLASSES), make_settings(resize="none")).segment(picture()).mask.shape == (
        64,
        96,
    )
    with pytest.raises(UserError, match="use its own classes: cat, tree"):
        Segmenter(pre, ["dog"])
    _, plain = trained(language=False)
    with pytest.raises(UserError, match="without language"):
        Segmenter(plain, ["dog"])
    with pytest.raises(UserError, match="leave out key smoothing"):
        Segmenter(plain, ["cat"], make_settings(refine="ks"))
    assert "fine-tuned CLIP" in plain.describe()


def test_every_weight_has_to_be_there():
    model = from_clip("rn")
    content = saved(model)
    del content["model"]["model.gamma"]
    with pytest.raises(UserError, match="does not fit its own description"):
        TrainedDenseClip.of("x.pt", content, torch.device("cpu"), torch.float32)
    one, other = trained()[1], trained()[1]
    assert one.fingerprint == other.fingerprint
    assert tiny_clip("rn").fingerprint != one.fingerprint
