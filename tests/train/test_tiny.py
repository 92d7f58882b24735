"""Training the tiny CLIPs: losses, batches that depend on their number only, bit-identical resuming."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from denseclip.clip import load_clip
from denseclip.data.stickers import SceneRecipe
from denseclip.data.stickers.captions import seen
from denseclip.train.tiny import loop
from denseclip.train.tiny.__main__ import export
from denseclip.train.tiny.losses import bank_contrast, pair_contrast, phrase_contrast, place_contrast, spread
from denseclip.train.tiny.pairs import PairBatches, pictures
from denseclip.train.tiny.recipes import RECIPES, TEXT, WIDE, Stage, TinyRecipe

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


def test_bank_contrast_sets_right_words_against_wrong_ones_only():
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    known = torch.tensor([[True, True, False]])
    expected = (torch.log1p(torch.exp(torch.tensor(-2.0))) + torch.log1p(torch.exp(torch.tensor(-1.0)))) / 2
    torch.testing.assert_close(bank_contrast(logits, known), expected)


def test_places_may_show_any_word_of_their_picture():
    logits = torch.full((2, 4, 3), -9.0)
    logits[0, :2, 0] = logits[0, 2:, 1] = 9.0  # half the places show one word, half the other
    known = torch.tensor([[True, True, False], [False, False, False]])
    assert place_contrast(logits, known) < 1e-6
    assert place_contrast(logits, torch.tensor([[True, False, False], [False, False, False]])) > 8
    assert place_contrast(logits, torch.tensor([[True, True, False], [False, False, True]])) == pytest.approx(
        math.log(3) / 2, abs=1e-5
    )


def test_windows_name_what_they_show():
    recipe = replace(SMALL, stages=(Stage(64, 96, WIDE, seen_from=(200, 260)),), batch=64)
    scenes = list(pictures(recipe, recipe.stages[0], 0))
    assert len(scenes) == 64
    assert all(scene.image.shape == (96, 96, 3) for scene in scenes)
    assert len({scene.image.tobytes() for scene in scenes}) > 48
    for scene in scenes:
        visible = set(np.unique(scene.instances)) - {0}
        assert {t.name for t in seen(scene)} <= {scene.things[i - 1].name for i in visible}
        assert set(scene.stuff) <= {scene.names[i] for i in np.unique(scene.labels[scene.instances == 0])}
    again = list(pictures(recipe, recipe.stages[0], 0))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(scenes, again, strict=True))


def test_learning_rate_cycles():
    recipe = replace(SMALL, stages=(*SMALL.stages, Stage(40, 32, SCENES, restart=0.5)), warmup_steps=1)
    assert [recipe.cycle_at(step) for step in (0, 3, 4, 13)] == [
        (0, 4, 1e-3),
        (0, 4, 1e-3),
        (4, 10, 5e-4),
        (4, 10, 5e-4),
    ]
    assert loop.learning_rate(recipe, 3) < 0.2 * recipe.lr
    assert loop.learning_rate(recipe, 4) == 0.5 * recipe.lr


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
    assert clip.text.token_embedding.num_embeddings == 8514
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 20 * 2**20
