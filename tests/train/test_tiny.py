"""Training the tiny CLIPs: losses, batches that depend on their number only, bit-identical resuming."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from denseclip.clip import load_clip
from denseclip.data.stickers import SceneRecipe
from denseclip.train.tiny import loop
from denseclip.train.tiny.__main__ import export
from denseclip.train.tiny.losses import pair_contrast, phrase_contrast, spread
from denseclip.train.tiny.pairs import PairBatches
from denseclip.train.tiny.recipes import RECIPES, TEXT, Stage, TinyRecipe

SCENES = SceneRecipe(count=(1, 2), scale=(0.3, 0.9))
SMALL = TinyRecipe(
    name="small",
    config={
        "embed_dim": 16,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 64},
        "text_cfg": {**TEXT, "width": 32, "heads": 2, "layers": 1},
        "quick_gelu": False,
    },
    stages=(Stage(8, 32, SCENES), Stage(8, 64, SCENES)),
    batch=4,
    warmup_steps=2,
    text_steps=2,
)


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def test_one_right_phrase_each_is_clips_loss():
    images, texts, scale = unit(5, 8), unit(5, 8), torch.tensor(20.0)
    expected = pair_contrast(images, texts, scale)
    torch.testing.assert_close(
        phrase_contrast(images, texts, torch.eye(5, dtype=torch.bool), scale), expected
    )


def test_right_phrases_are_not_set_against_each_other():
    images, scale = unit(2, 8), torch.tensor(20.0)
    phrases = torch.cat([images[:1], images[:1], images[1:]])  # two perfect phrases for picture 0
    matches = torch.tensor([[True, True, False], [False, False, True]])
    distance = 1 - (images[0] @ images[1]).item()
    expected = torch.log1p(torch.exp(torch.tensor(-20.0 * distance)))
    assert phrase_contrast(images, phrases, matches, scale) < 3 * expected + 1e-6


def test_spread_is_zero_at_right_angles_and_one_for_equal_rows():
    assert spread(torch.eye(6)).item() == pytest.approx(0, abs=1e-6)
    assert spread(unit(1, 8).expand(6, 8)).item() == pytest.approx(1, abs=1e-5)


def test_a_batch_depends_on_its_step_only():
    late, early = PairBatches(SMALL, first=2)[0], PairBatches(SMALL)[2]
    assert torch.equal(late.images, early.images)
    assert (late.phrases, late.whole) == (early.phrases, early.whole)
    assert torch.equal(late.matches, early.matches)
    assert late.images.shape == (4, 3, 64, 64)
    assert PairBatches(SMALL)[0].images.shape == (4, 3, 32, 32)
    assert late.matches.any(1).all()
    assert len(PairBatches(SMALL, first=2)) == 2


def test_stages_follow_each_other():
    assert SMALL.steps == 4
    assert [SMALL.stage_at(step).side for step in range(4)] == [32, 32, 64, 64]
    rates = [loop.learning_rate(RECIPES["tiny-rn"], step) for step in range(RECIPES["tiny-rn"].steps)]
    assert max(rates) <= RECIPES["tiny-rn"].lr
    assert rates[0] < rates[100]
    assert rates[-1] < rates[0] * 0.1


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, monkeypatch):
    whole = loop.train(SMALL, tmp_path / "whole", workers=0, report=lambda line: None)
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    steps, real = [], loop._step

    def stop_at_third(*arguments):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "_step", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        loop.train(SMALL, tmp_path / "cut", workers=0, report=lambda line: None)
    resumed = loop.train(SMALL, tmp_path / "cut", workers=0, report=lambda line: None)
    assert len(steps) == 5
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_training_learns_something(tmp_path):
    losses = []
    recipe = replace(SMALL, stages=(Stage(160, 32, SCENES),), lr=3e-3)
    trainee = loop.train(recipe, tmp_path, workers=0, report=lambda line: losses.append(line))
    batch = PairBatches(recipe)[0]
    with torch.no_grad():
        trained = trainee.loss(batch)
        torch.manual_seed(0)
        fresh = loop.Trainee(recipe).eval().loss(batch)
    assert trained < fresh


def test_the_export_loads_and_says_the_same(tmp_path):
    torch.manual_seed(0)
    trainee = loop.Trainee(SMALL).eval()
    export(trainee, SMALL, tmp_path)
    clip = load_clip(tmp_path)
    with torch.no_grad():
        expected = trainee.sentences(["a cat", "a photo of a red car."])
    torch.testing.assert_close(
        F.normalize(clip.encode_text(["a cat", "a photo of a red car."]), dim=-1), expected, atol=5e-3, rtol=0
    )
    assert clip.text.vocab_size == 8514
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 20 * 2**20
