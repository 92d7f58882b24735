"""DenseCLIP through the same loop; its checkpoints as models; the user's own data."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import denseclip
from cli_support import call, run
from denseclip.data.published import dataset_spec
from denseclip.errors import UserError
from denseclip.train.tasks import build_task
from denseclip.train.training import open_training_data, train
from train_support import small

DENSE = {
    "system": "denseclip",
    "labels": {"hide": "none"},
    "denseclip": {
        "clip": "tiny-rn",
        "config": {"fpn_channels": 16, "decoder_width": 32, "decoder_layers": 1},
    },
    "optimizer": {"name": "adamw", "lr": 1e-3, "min_lr": 1e-6, "warmup": 2, "weight_decay": 1e-4},
    "steps": 3,
    "augment": {"crop": [64, 64]},
}


def test_it_trains_and_answers_for_its_words_and_others(tmp_path):
    seen = []
    outcome = train(small(**DENSE, panel_every=3), tmp_path, on_step=seen.append)
    assert {"decode", "aux", "loss"} <= seen[0].values.keys()
    assert seen[0].values["loss"] == pytest.approx(seen[0].values["decode"] + seen[0].values["aux"], rel=1e-5)
    assert (tmp_path / "panels" / "000003.png").exists()
    segmenter = denseclip.load(outcome.checkpoint, resize="none")
    image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    assert segmenter.segment(image).classes == dataset_spec("stickers20").classes
    segmenter.set_classes(["zebra", "moss"])
    assert segmenter.segment(image).classes == ("zebra", "moss")


def test_what_is_frozen_stays(tmp_path):
    recipe = small(**DENSE)
    data = open_training_data(recipe.data, None)
    torch.manual_seed(recipe.seed)
    before = build_task(recipe, data, torch.device("cpu")).state_dict()
    train(recipe, tmp_path)
    after = torch.load(tmp_path / "last.pt", weights_only=True)["model"]
    text = [name for name in before if "text_encoder" in name]
    assert text and all(torch.equal(before[name], after[name]) for name in text)
    assert not torch.equal(before["model.contexts"], after["model.contexts"])


def test_random_weights_are_for_the_baseline():
    data = open_training_data(small(**DENSE).data, None)
    random = {**DENSE, "denseclip": {**DENSE["denseclip"], "weights": "random"}}
    with pytest.raises(UserError, match="without words"):
        build_task(small(**random), data, torch.device("cpu"))
    random["denseclip"]["config"] = {"language": False, "fpn_channels": 16}
    torch.manual_seed(0)
    weights = build_task(small(**random), data, torch.device("cpu")).state_dict()
    clip = build_task(
        small(**{**random, "denseclip": {**random["denseclip"], "weights": "clip"}}),
        data,
        torch.device("cpu"),
    ).state_dict()
    assert not torch.equal(weights["model.backbone.conv1.weight"], clip["model.backbone.conv1.weight"])


CLASSES = {"0": "sky", "1": "cat", "2": "grass"}


def write_own(folder, classes=CLASSES):
    """Four pictures with label maps of three classes, and what says so."""
    rng = np.random.default_rng(0)
    for i in range(4):
        image, mask = rng.integers(0, 255, (80, 90, 3), np.uint8), np.zeros((80, 90), np.uint8)
        mask[20:50], mask[50:] = 1, 2
        for name, picture in (("images", image), ("masks", mask)):
            (folder / name).mkdir(exist_ok=True)
            Image.fromarray(picture).save(folder / name / f"{i}.png")
    described = {"images": "images", "masks": "masks", "classes": classes}
    (folder / "data.json").write_text(json.dumps(described))
    return folder


def training(folder, out, *changes):
    few = ["steps=2", "batch=2", "augment.crop=[64, 64]", "workers=0", "augment.resize=short:80"]
    data = f"data.train={folder / 'data.json'}"
    return ["train", "own-denseclip", data, "denseclip.clip=tiny-rn", *few, *changes, "--out", out]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = write_own(tmp_path_factory.mktemp("own"))
    assert call(*training(folder, folder / "run")) == 0
    return folder


@pytest.mark.parametrize("words", [None, ["zebra", "moss", "a red car"]])
def test_own_folder_in_two_commands(own, tmp_path, capsys, words):
    """Three classes of one's own: one command to train, one to use, for them or for other words."""
    used = ["segment", own / "images/0.png", "--model", own / "run/last.pt", "--out", tmp_path]
    ran = run(capsys, *used, *(["--classes", ", ".join(words)] if words else []))
    assert ran.code == 0, ran.err
    written = json.loads((tmp_path / "classes.json").read_text())
    assert list(written.values()) == (words or list(CLASSES.values()))
    assert np.asarray(Image.open(tmp_path / "0.png")).shape == (80, 90)


def test_it_is_evaluated_at_several_scales(own, capsys):
    options = ["--scales", "0.5,1", "--flip", "--slide", "64/32", "--resize", "short:80"]
    ran = run(capsys, "evaluate", own / "run/last.pt", own / "data.json", *options, "--protocol", "official")
    assert ran.code == 0, ran.err
    assert "0.5, 1 with flip" in ran.out and "mIoU" in ran.out


@pytest.mark.parametrize(
    ("classes", "changes", "message"),
    [
        (CLASSES, ["optimiser.lr=1"], "unknown key optimiser"),
        (CLASSES, ["data.train=nowhere/data.json"], "nowhere/data.json"),
        (CLASSES, ["denseclip.config.prompt=pre"], "no setting 'prompt'"),
        (CLASSES, ["denseclip.clip=tiny-nothing"], "tiny-nothing"),
        ({"0": "sky", "1": "cat"}, [], "2"),
        ({"0": "sky", "1": "cat", "2": "grass", "3": "cat"}, [], "cat"),
    ],
    ids=["key", "folder", "setting", "clip", "id without a word", "word twice"],
)
def test_mistakes_are_one_line(tmp_path, capsys, classes, changes, message):
    ran = run(capsys, *training(write_own(tmp_path, classes), tmp_path / "run", *changes))
    assert ran.code == 2 and message in ran.err and ran.err.count("\n") == 1, ran.err


@pytest.mark.parametrize("recipe", ["own", "stickers59-fpn"])
def test_dry_run_says_what_it_costs(own, tmp_path, capsys, recipe):
    few = ["augment.crop=[64, 64]", "denseclip.clip=tiny-rn"]
    data = [f"data.train={own / 'data.json'}"] if recipe == "own" else []
    name = "own-denseclip" if recipe == "own" else recipe
    ran = run(capsys, "train", name, *data, *few, "--out", tmp_path / "run", "--dry-run")
    assert ran.code == 0, ran.err
    assert "M parameters are trained" in ran.out and "GiB" in ran.out
    assert re.search(r"\d+ workers read [\d.]+ images/s, the network learns [\d.]+: what limits", ran.out)
    assert not (tmp_path / "run").exists()
