"""The loop: checkpoints, resuming to the same bits, refusals; and what its checkpoints are good for."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import denseclip
from cli_support import run
from denseclip.clip.device import Precision
from denseclip.data.published import dataset_spec
from denseclip.data.sticker_sets import open_stickers
from denseclip.errors import UserError
from denseclip.models.checkpoint import read_saved, trained_kind
from denseclip.train.loop import learning_rate, make_optimizer, poly_lr
from denseclip.train.training import train
from train_support import same, small, weights


class StopError(Exception):
    """In place of a kill, right after a step."""


def stop_after(step):
    def on_step(told):
        if told.step == step:
            raise StopError

    return on_step


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    seen = []
    outcome = train(small(panel_every=4, probe_every=2), folder, on_step=seen.append)
    return folder, outcome, seen


def test_a_run_leaves_what_it_promises(trained):
    folder, outcome, seen = trained
    assert [told.step for told in seen] == [1, 2, 3, 4] and {told.phase for told in seen} == {"guided"}
    assert all(np.isfinite(told.values["loss"]) for told in seen)
    assert {"last.pt", "best.pt", "recipe.json", "panels", "tensorboard"} <= {
        p.name for p in folder.iterdir()
    }
    assert {p.name for p in folder.glob(".*")} == {".denseclip"}, "a temporary file was left behind"
    assert outcome.checkpoint == folder / "last.pt" and outcome.steps == 4
    assert (
        trained_kind(outcome.checkpoint) == "ours" and read_saved(outcome.checkpoint)["progress"]["step"] == 4
    )
    first = train(small(panel_every=4, probe_every=2), folder)
    assert first.steps == 0, "a finished run starts again"


def test_resumed_runs_end_in_the_same_bits(trained, tmp_path):
    folder, _, _ = trained
    for step in (1, 3):  # before the first checkpoint, and one step after it
        with pytest.raises(StopError):
            train(small(), tmp_path, on_step=stop_after(step))
    seen = []
    train(small(), tmp_path, on_step=seen.append)
    assert seen[0].step == 3
    assert same(weights(tmp_path / "last.pt"), weights(folder / "last.pt"))


def test_phases_follow_the_global_step(tmp_path):
    labels = {"hide": "all", "guided": [1, 2], "self_training": [3]}
    with pytest.raises(StopError):
        train(small(labels=labels), tmp_path, on_step=stop_after(2 + 1))
    seen = []
    train(small(labels=labels), tmp_path, on_step=seen.append)
    assert [(told.step, told.phase) for told in seen] == [(3, "self-training"), (4, "self-training")]


def test_another_recipe_is_refused(trained):
    folder, _, _ = trained
    with pytest.raises(UserError, match=r"another optimizer\.lr"):
        train(small(optimizer={"lr": 0.5}), folder)
    assert train(small(workers=1, save_every=1), folder).steps == 0, "what changes no result is free"


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04torn"])
def test_torn_checkpoints(tmp_path, content):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"last\.pt"):
        train(small(), tmp_path)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(UserError, match=r"not a number.*optimizer\.lr"):
        train(small(optimizer={"lr": 1e30}), tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_gradients_can_be_clipped_in_every_precision(precision):
    """Fabric refuses to where the optimizer itself takes the scale of fp16 off."""
    part = small(optimizer={"name": "adamw", "clip": 0.1}).optimizer
    weight = torch.nn.Parameter(torch.ones(2))
    task = SimpleNamespace(parameter_groups=lambda: [{"params": [weight]}])
    made = make_optimizer(task, part, Precision(precision))
    assert getattr(made, "_step_supports_amp_scaling", False) == (precision != "fp16")


def test_groups_have_their_own_base_rate():
    recipe = small(optimizer={"lr": 0.01, "min_lr": 1e-4, "warmup": 2})
    assert learning_rate(recipe, 3, 0.1) == poly_lr(2, 4, 0.001, min_lr=1e-4, warmup=2)


def test_a_checkpoint_is_a_model_like_any_other(trained, tmp_path, capsys):
    _, outcome, _ = trained
    spec = dataset_spec("stickers20")
    image = open_stickers(spec, "val", side=96)[0].image
    segmenter = denseclip.load(outcome.checkpoint, resize="none")
    result = segmenter.segment(image, confidence=True)
    assert result.classes == spec.classes and result.mask.shape == (96, 96)
    assert 0 < result.confidence.min() <= result.confidence.max() <= 1
    segmenter.set_classes(["zebra", "cat", "brick wall"])  # two words it was never trained with
    assert segmenter.segment(image).classes == ("zebra", "cat", "brick wall")
    with pytest.raises(UserError, match="no keys"):
        denseclip.load(outcome.checkpoint, refine="ks")
    with pytest.raises(UserError, match="no last block"):
        denseclip.load(outcome.checkpoint, preset="sclip")
    ran = run(capsys, "evaluate", outcome.checkpoint, "stickers20", "--limit", 2, "--out", tmp_path / "e")
    assert ran.code == 0 and "MaskCLIP+ student" in ran.out


def test_own_words_are_those_of_the_training(trained):
    _, outcome, _ = trained
    model = denseclip.load(outcome.checkpoint).clip
    spec = dataset_spec("stickers20")
    teacher = denseclip.load("tiny-rn", list(spec.classes), background="none")
    own = model.embed(teacher._class_prompts, ("{}",), None)
    torch.testing.assert_close(own.matrix, teacher.embeddings.matrix)


KILLED = """
import sys
from denseclip.train.training import train
from train_support import small
train(small(steps=int(sys.argv[2]), save_every=int(sys.argv[3])), __import__("pathlib").Path(sys.argv[1]))
"""


def start(folder: Path, steps: int, every: int) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", KILLED, str(folder), str(steps), str(every)]
    return subprocess.Popen(arguments, cwd=Path(__file__).parents[1])


@pytest.mark.slow
def test_ten_kills_change_no_bit(tmp_path):
    """A 200-step run, killed at ten random moments, ends as one that was left alone."""
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    begun = time.monotonic()
    assert start(whole, 200, 20).wait() == 0
    length = time.monotonic() - begun
    rng = np.random.default_rng(0)
    for _ in range(10):
        process = start(torn, 200, 20)
        try:
            process.wait(timeout=float(rng.uniform(0.05, 0.6)) * length)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
        assert not (torn / "last.pt").exists() or trained_kind(torn / "last.pt")
    assert start(torn, 200, 20).wait() == 0
    assert same(weights(torn / "last.pt"), weights(whole / "last.pt"))
