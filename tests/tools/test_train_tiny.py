"""Training the tiny CLIPs: losses, batches that depend on their number only, bit-identical resuming. All in fp32."""

import math
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from denseclip.clip import load_clip
from denseclip.data.opening import open_dataset
from denseclip.data.sticker_sets import sticker_specs
from denseclip.data.stickers import SceneRecipe, render
from denseclip.data.stickers.scenes import seen
from tools.train_tiny import training
from tools.train_tiny.__main__ import main
from tools.train_tiny.batches import WORDS, Batches, pictures
from tools.train_tiny.contrast import bank_contrast, pair_contrast, phrase_contrast, place_contrast, spread
from tools.train_tiny.recipes import RECIPES, WIDE, Stage, TinyRecipe
from tools.train_tiny.trainee import Teacher
from tools.train_tiny.training import Run, fitted, learning_rate, train

SCENES = SceneRecipe(count=(1, 2), scale=(0.3, 0.9))
SMALL = TinyRecipe(
    name="tiny-rn",
    vision={"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 64},
    stages=(Stage(2, 32, SCENES, batch=4, stuff=False), Stage(2, 64, SCENES, batch=4)),
    text_steps=2,
    average=(2, 0.9),
)
TAUGHT = replace(
    SMALL,
    name="tiny-vit",
    vision={"layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32},
    stages=(Stage(3, 32, WIDE, (40, 60), batch=4), Stage(1, 48, WIDE, (50, 60), batch=4)),
    taught=True,
)
FP32 = torch.device("cpu"), False  # no bf16


@pytest.fixture(scope="module")
def teacher():
    return Teacher(load_clip("tiny-rn"))


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def silent(line):
    pass


def test_one_right_phrase_each_is_clips_loss():
    images, texts, scale = unit(5, 8), unit(5, 8), torch.tensor(20.0)
    logits, target = scale * images @ texts.T, torch.arange(5)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(pair_contrast(images, texts, scale), expected)


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
    recipe = replace(SMALL, stages=(Stage(1, 96, WIDE, (200, 260), batch=60),))
    scenes = list(pictures(recipe, 0))
    assert len(scenes) == 60
    assert all(scene.image.shape == (96, 96, 3) for scene in scenes)
    assert len({scene.image.tobytes() for scene in scenes}) > 45
    for scene in scenes:
        visible = set(np.unique(scene.instances)) - {0}
        assert {t.name for t in seen(scene)} <= {scene.things[i - 1].name for i in visible}
        assert set(scene.stuff) <= {scene.names[i] for i in np.unique(scene.labels[scene.instances == 0])}
    again = list(pictures(recipe, 0))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(scenes, again, strict=True))


def test_a_batch_depends_on_its_step_only():
    late, early = Batches(SMALL, first=2)[0], Batches(SMALL)[2]
    assert all(torch.equal(a, b) for a, b in zip(late, early, strict=True))
    assert late.images.shape == (4, 3, 64, 64)
    assert late.matches.any(1).all()
    assert late.matches.shape == (4, len(late.phrases))
    assert late.known.shape == (4, len(WORDS))
    alone = Batches(SMALL)[0]
    assert alone.images.shape == (4, 3, 32, 32)
    assert alone.known.shape[1] < len(WORDS)  # captions without textures
    assert len(Batches(SMALL, first=2)) == 2


def test_no_picture_is_drawn_twice():
    for recipe in RECIPES.values():
        firsts = [recipe.stage_at(step) for step in range(recipe.steps)]
        numbers = [first for _, first in firsts]
        ends = [first + stage.batch for stage, first in firsts]
        assert numbers[1:] == ends[:-1]
    with pytest.raises(IndexError):
        SMALL.stage_at(SMALL.steps)


def test_the_learning_rate_rises_and_falls_in_every_cycle():
    recipe = replace(SMALL, stages=(*SMALL.stages, Stage(40, 32, SCENES, cycle=0.5)), warmup=0.1)
    assert recipe.cycle_at(3) == (0, 4, 1e-3)
    assert recipe.cycle_at(4) == recipe.cycle_at(43) == (4, 40, 5e-4)
    rates = [learning_rate(recipe, step) for step in range(recipe.steps)]
    assert rates[3] < 0.2 * recipe.lr
    assert max(rates[4:]) == rates[7] == pytest.approx(5e-4, rel=0.02)
    assert rates[4] == pytest.approx(rates[7] / 4, rel=0.05)
    assert rates[-1] < 0.01 * rates[7]
    assert all(max(learning_rate(r, s) for s in range(r.steps)) <= r.lr for r in RECIPES.values())


def test_what_trains_never_occurs_in_a_data_set():
    used = {recipe.split for recipe in RECIPES.values()}
    sets = [open_dataset(spec.name, split=k) for spec in sticker_specs() for k in ("train", "val")]
    splits = {entry.split for each in sets for entry in each.entries[:1]}
    assert len(splits) == 8
    assert not used & splits


def test_the_teacher_puts_the_captions_words_in_their_places(teacher):
    """Against the masks of the scenes, which only this test sees."""
    scenes = [render("test", i, WIDE, 128) for i in range(6)]
    known = torch.zeros(6, len(WORDS), dtype=torch.bool)
    for i, scene in enumerate(scenes):
        known[i, [WORDS.index(name) for name in scene.names]] = True
    images = torch.stack([torch.from_numpy(scene.image).permute(2, 0, 1) for scene in scenes]) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (teacher.clip.stats.mean, teacher.clip.stats.std))
    bank = F.normalize(teacher.clip.encode_text(WORDS), dim=-1)
    words = teacher.words((images - mean) / std, bank, known)
    assert words.shape == (6, 256, len(WORDS))
    torch.testing.assert_close(words.sum(-1), torch.ones(6, 256))
    assert not words[~known[:, None].expand_as(words)].any()
    truth = torch.tensor(
        [[WORDS.index(s.names[k]) for k in s.labels[4::8, 4::8].ravel()] for s in scenes]
    )  # (6, 256)
    right = (words.argmax(-1) == truth).float()
    assert right.mean() > 0.8
    swapped = words.unflatten(1, (16, 16)).transpose(1, 2).flatten(1, 2)
    assert (swapped.argmax(-1) == truth).float().mean() < right.mean() - 0.1
    assert not teacher.words((images[:1] - mean) / std, bank, torch.zeros_like(known[:1])).any()


def test_a_taught_model_has_its_teachers_words_and_leaves_them(teacher, tmp_path):
    run = Run(TAUGHT, teacher, *FP32)
    visual = {k: v.clone() for k, v in run.trainee.model.visual.state_dict().items()}
    trained = train(run, tmp_path, workers=0, report=silent)
    words = teacher.clip.text.state_dict()
    assert all(torch.equal(v, words[k]) for k, v in trained.text.state_dict().items())
    assert not any(torch.equal(v, visual[k]) for k, v in trained.visual.state_dict().items())
    assert all(not parameter.requires_grad for parameter in teacher.clip.parameters())


@pytest.mark.parametrize("recipe", [SMALL, TAUGHT], ids=lambda recipe: recipe.name)
def test_an_interrupted_run_ends_with_the_same_bits(recipe, teacher, tmp_path, monkeypatch):
    guide = teacher if recipe.taught else None
    whole = train(Run(recipe, guide, *FP32), tmp_path / "whole", workers=0, report=silent)
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    cut = Run(recipe, guide, *FP32)
    steps, real = [], cut.step

    def stop_at_third(batch):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return real(batch)

    monkeypatch.setattr(cut, "step", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        train(cut, tmp_path / "cut", workers=0, report=silent)
    run = Run(recipe, guide, *FP32)
    resumed = train(run, tmp_path / "cut", workers=0, report=silent)
    assert run.done == 4
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("recipe", [SMALL, TAUGHT], ids=lambda recipe: recipe.name)
def test_training_learns_something(recipe, teacher, tmp_path):
    stage = replace(recipe.stages[0], batch=8, stuff=True)
    run = Run(
        replace(recipe, lr=3e-3, stages=(replace(stage, steps=24),)),
        teacher if recipe.taught else None,
        *FP32,
    )
    seen_before = Batches(run.recipe)[0]
    fresh = run.trainee.loss(seen_before).item()
    train(run, tmp_path, workers=0, report=silent)
    assert run.trainee.loss(seen_before).item() < 0.8 * fresh


def test_the_average_forgets_the_start():
    run = Run(replace(SMALL, average=(1, 0.5)), None, *FP32)
    batches = Batches(run.recipe)
    history = []
    for step in range(3):
        run.step(batches[step])
        history.append(run.trainee.model.visual.conv1.weight.detach().clone())
    expected = (history[0] + history[1]) / 4 + history[2] / 2
    torch.testing.assert_close(run.average.module.visual.conv1.weight, expected)


def test_the_length_follows_the_machine(monkeypatch):
    clock = count()
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    longer = fitted(Run(SMALL, None, *FP32), minutes=2, workers=0)  # one second to draw, one for a step
    assert [stage.steps for stage in longer.stages] == [30, 30]


def test_the_command_goes_on_and_its_result_loads(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(RECIPES, "tiny-rn", SMALL)
    command = ["tiny-rn", "--run", str(tmp_path), "--device", "cpu", "--precision", "fp32", "--workers", "0"]
    main(command)
    assert "written to" in capsys.readouterr().out
    clip = load_clip(tmp_path)
    assert (clip.image_size, clip.embed_dim, clip.text.context_length) == (64, 256, 48)
    run = Run(SMALL, None, *FP32)
    run.load(tmp_path / "last.pt")
    texts = ["a cat", "a photo of a red car."]
    with torch.no_grad():
        expected = run.average.module.text(clip.tokenizer(texts))
    torch.testing.assert_close(clip.encode_text(texts), expected, atol=5e-3, rtol=0)
    weights = (tmp_path / "model.safetensors").read_bytes()
    main(command)  # nothing is left to do
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--batch", "8"])
    assert stopped.value.code == 2
    assert "was begun with name tiny-rn, precision fp32; give the same" in capsys.readouterr().err


def test_only_a_tiny_resnet_teaches(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["tiny-vit", "--run", str(tmp_path / "run"), "--teacher", "tiny-vit", "--device", "cpu"])
    assert "--teacher tiny-vit is no tiny-rn" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
