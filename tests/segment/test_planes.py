"""PAMR in the segmenter: as if all scores were refined, whatever is left out, and by word."""

import numpy as np
import pytest
import torch

from clip_support import tiny_clip
from denseclip import UserError
from denseclip.loading import make_settings
from denseclip.segment import planes, refine
from denseclip.segment.segmenter import Segmenter
from denseclip.segment.settings import Refinement
from fixtures_support import training_free_weights

WORDS = ["cat|kitten", "dog", "grass", "sky", "road"]


def picture(height=70, width=90):
    return training_free_weights.picture(height, width, 3)


def segmenter(**options):
    return Segmenter(tiny_clip("vit"), WORDS, make_settings(templates="1", resize="none", **options))


@pytest.mark.parametrize(
    "options", [{}, {"slide": "48/32"}, {"threshold": 0.3}, {"background": "wall"}], ids=repr
)
def test_masks_are_those_of_all_scores_refined(options):
    image = picture()
    model, plain = segmenter(refine="pamr=3", **options), segmenter(**options)
    full = plain.decoding(image).planes(0).some(torch.arange(len(plain.embeddings.classes)))
    guide = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = refine.pamr(full[None], guide, steps=3)[0]
    result = model.segment(image, confidence=True)
    shares = (expected * model.clip.logit_scale).softmax(0)
    np.testing.assert_allclose(result.confidence, shares.amax(0), atol=1e-4)
    best = expected.argmax(0).numpy()
    if "threshold" in options:
        best = np.where(shares.amax(0) < 0.3, 0, best + 1)
    assert (result.mask == best).mean() > 0.999
    dog = expected[model.embeddings.classes.index("dog")].numpy()
    np.testing.assert_allclose(result.heatmap("dog"), dog, atol=1e-6)


def test_classes_that_cannot_win_are_left_out_exactly(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    guide = torch.rand(1, 3, 64, 400, generator=generator)
    scores = torch.rand(12, 64, 400, generator=generator) * torch.linspace(0, 1, 12).flip(0)[:, None, None]
    scores[7, :, 300:] += 2  # wins far from the others only
    monkeypatch.setattr(planes, "MOST_SCORES", 1)
    made = planes.Planes.of(lambda part: scores[part], 12, (64, 400), guide, 2)
    refined = []
    monkeypatch.setattr(
        planes, "pamr_steps", lambda *given: refined.append(len(given[0][0])) or refine.pamr_steps(*given)
    )
    ids, best, _ = made.decode(None, 100.0)
    expected = refine.pamr(scores[None], guide, steps=2)[0]
    torch.testing.assert_close(best, expected.amax(0))
    assert torch.equal(ids, expected.argmax(0))
    assert sum(refined) < 12


def test_the_probability_of_words_is_not_that_of_classes():
    official = segmenter(compat="sc-clip", preset="sc-clip")
    result = official.segment(picture(64, 96), confidence=True)
    assert set(np.unique(result.mask)) <= set(range(5))
    assert result.scores.shape[0] == 5
    words = official.decoding(picture(64, 96)).maps[0]
    assert words.shape[1] == 6
    assert result.heatmap("cat").shape == (64, 96)
    with_rule = segmenter(compat="sc-clip", preset="sc-clip", threshold=0.9999).segment(picture(64, 96))
    assert (with_rule.mask == 0).all()


def test_how_it_is_written():
    assert Refinement.parse("pd+pamr") == Refinement(pd=0.5, pamr=10)
    assert Refinement.parse("pamr=4").pamr == 4
    for wrong in ("pamr=0.5", "pamr=0", "pamr=1000", "pamrs"):
        with pytest.raises(UserError, match="refinement"):
            Refinement.parse(wrong)
