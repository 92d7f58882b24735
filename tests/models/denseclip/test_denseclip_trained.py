"""A trained DenseCLIP behind the Segmenter, from a checkpoint's content."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_denseclip import CLASSES, from_clip

from clip_support import tiny_clip
from denseclip.clip import ImageStats
from denseclip.data.transforms import normalize
from denseclip.errors import UserError
from denseclip.loading import make_settings
from denseclip.models.trained import TrainedDenseClip, contents_of
from denseclip.segment.segmenter import Segmenter
from denseclip.segment.settings import Slide

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
    network, names = wrapped.network(segmenter._class_prompts, ())
    assert names == ("cat", "a green sofa")
    torch.testing.assert_close(network(frame())[0], scores)


def official_multi_scale(model, image, short, ratios, rule):
    """Resized, cut, run, averaged as the official test script does it, written plainly: probabilities (K, H, W)."""
    height, width = image.shape[:2]
    total = 0
    for ratio in ratios:
        box = int(2048 * ratio), int(short * ratio)
        factor = min(box[0] / max(height, width), box[1] / min(height, width))
        size = int(height * factor + 0.5), int(width * factor + 0.5)
        pixels = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        frame = normalize(pixels, STATS.mean, STATS.std)[None]
        for mirrored in (False, True):
            view = frame.flip(-1) if mirrored else frame
            sums, count = torch.zeros(1, len(CLASSES), *size), torch.zeros(size)
            for top in rule.starts(size[0]):
                for left in rule.starts(size[1]):
                    place = slice(top, top + rule.crop), slice(left, left + rule.crop)
                    window = view[:, :, *place]
                    logits = model(window)
                    sums[:, :, *place] += F.interpolate(logits, window.shape[2:], mode="bilinear")
                    count[place] += 1
            full = F.interpolate(sums / count, (height, width), mode="bilinear").softmax(1)[0]
            total = total + (full.flip(-1) if mirrored else full)
    return total / (2 * len(ratios))


@pytest.mark.parametrize("kind", ["rn", "vit"])
def test_multi_scale_with_flip_is_the_official_one(kind):
    model, wrapped = trained(kind)
    ratios, rule = (0.5, 1.0, 1.75), Slide(64, 42)
    settings = make_settings(resize="2048x64", slide="64/42", scales=ratios, flip=True, compat="official")
    with torch.no_grad():
        expected = official_multi_scale(model, picture(), 64, ratios, rule)
    found = Segmenter(wrapped, settings=settings).segment(picture(), confidence=True)
    np.testing.assert_allclose(found.confidence, expected.amax(0), atol=1e-4)
    assert (found.mask == expected.argmax(0).numpy()).mean() > 0.999


@pytest.mark.parametrize("prompting", ["post", "pre", "none"])
def test_a_network_to_export_has_no_text_encoder(prompting):
    model, wrapped = trained("rn", prompting=prompting)
    network, names = wrapped.network(None, ())
    assert names == CLASSES
    with torch.no_grad():
        torch.testing.assert_close(network(frame()), model(frame()))
    inside = any("text_encoder" in name for name, _ in network.named_parameters())
    assert inside == (prompting == "pre")
    assert any("text_encoder" in name for name, _ in model.named_parameters())


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
