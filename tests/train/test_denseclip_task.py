"""DenseCLIP through the same loop; its checkpoints as models; the user's own data."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import denseclip
from cli_support import run
from denseclip.data.published import dataset_spec
from denseclip.errors import UserError
from denseclip.train.run import open_training_data, train
from denseclip.train.systems import build_task
from train_support import small

DENSE = {
    "system": "denseclip",
    "labels": {"hide": "none"},
    "denseclip": {
        "clip": "tiny-rn",
        "config": {"fpn_channels": 16, "decoder_width": 32, "decoder_layers": 1},
    },
    "optimiser": {"name": "adamw", "lr": 1e-3, "min_lr": 1e-6, "warmup": 2, "weight_decay": 1e-4},
    "steps": 3,
    "augment": {"crop": [64, 64]},
}


def test_it_trains_and_answers_for_its_words_and_others(tmp_path):
    seen = []
    outcome = train(small(**DENSE, panel_every=3), tmp_path, tell=seen.append)
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


def test_own_folder_in_two_commands(tmp_path, capsys):
    """Three classes of one's own: one command to train, one to use."""
    rng = np.random.default_rng(0)
    for i in range(4):
        image, mask = rng.integers(0, 255, (80, 90, 3), np.uint8), np.zeros((80, 90), np.uint8)
        mask[20:50], mask[50:] = 1, 2
        for folder, picture in (("images", image), ("masks", mask)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / folder / f"{i}.png")
    described = {"images": "images", "masks": "masks", "classes": {"0": "sky", "1": "cat", "2": "grass"}}
    (tmp_path / "data.json").write_text(json.dumps(described))
    changes = ["data.train=" + str(tmp_path / "data.json"), "steps=2", "batch=2", "augment.crop=[64, 64]"]
    changes += ["denseclip.clip=tiny-rn", "workers=0", "augment.resize=short:80"]
    ran = run(capsys, "train", "own-denseclip", *changes, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    used = run(
        capsys,
        "segment",
        tmp_path / "images" / "0.png",
        "--model",
        tmp_path / "run" / "last.pt",
        "--out",
        tmp_path / "o",
    )
    assert used.code == 0, used.err
    assert json.loads((tmp_path / "o" / "classes.json").read_text()) == {"0": "sky", "1": "cat", "2": "grass"}
