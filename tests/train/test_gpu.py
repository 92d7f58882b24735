"""What only a GPU shows: every command once, the CPU's masks, training of each kind, going on elsewhere.

DENSECLIP_TEST_DEVICE=cpu runs the same on the CPU, which shows that the tests themselves are right.
"""

import math
import os

import numpy as np
import pytest
import torch
from test_precision import KINDS

import denseclip
from cli_support import run
from denseclip.data.published import dataset_spec
from denseclip.data.sticker_sets import open_stickers
from denseclip.train.training import train

DEVICE = os.environ.get("DENSECLIP_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        (DEVICE == "cuda" and not torch.cuda.is_available())
        or (DEVICE == "cpu" and "DENSECLIP_TEST_DEVICE" not in os.environ),
        reason="needs a GPU",
    ),
]
PRECISIONS = ("fp32", "bf16", "fp16") if DEVICE == "cuda" else ("fp32", "bf16")
SHORT = ["steps=2", "data.images=8", "workers=0", "--no-evaluation", "--device", DEVICE]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("gpu")


def command(capsys, *arguments):
    """Run a command; it must end well."""
    done = run(capsys, *arguments)
    assert done.code == 0, done.err + done.out
    return done.out


@pytest.fixture(scope="module")
def runs(home):
    """A short training of each kind, by the command line: {kind: checkpoint}."""
    made = {}
    for recipe in (
        "stickers20-annofree",
        "stickers20-zeroshot",
        "stickers59-denseclip",
        "stickers20-denseclip-retinanet",
        "stickers20-denseclip-maskrcnn",
    ):
        from cli_support import call

        assert call("train", recipe, "--out", home / recipe, *SHORT) == 0
        made[recipe] = home / recipe / "last.pt"
    return made


def test_commands_of_words(capsys, home):
    device = ["--device", DEVICE]
    command(capsys, "demo", "--out", home / "demo")
    pictures = home / "demo" / "pictures"
    words = ["--classes", "cat, dog, grass"]
    command(capsys, "segment", pictures, *words, "--out", home / "masks", *device)
    command(capsys, "label", pictures, *words, "--out", home / "labels", "--format", "png,coco", *device)
    command(capsys, "evaluate", "tiny-rn", "stickers20", "--limit", 3, "--out", home / "evaluated", *device)
    grid = ["--limit", 2, "--kinds", "gaussian_noise", "--levels", "1"]
    command(capsys, "robustness", "tiny-rn", "stickers20", *grid, "--out", home / "robustness", *device)
    command(capsys, "flops", "denseclip-fpn-rn50")
    command(
        capsys,
        "distill",
        pictures,
        *words,
        "--out",
        home / "distilled",
        "--from-scratch",
        "--steps",
        2,
        *device,
    )
    assert (home / "masks" / "classes.json").is_file() and (home / "labels" / "coco.json").is_file()
    assert (home / "distilled" / "report.md").is_file()


def test_commands_of_trained_models(capsys, home, runs):
    device = ["--device", DEVICE]
    command(capsys, "demo", "--out", home / "again")
    pictures = home / "again" / "pictures"
    for recipe, data in (("stickers20-annofree", "stickers20"), ("stickers59-denseclip", "stickers59")):
        command(capsys, "evaluate", runs[recipe], data, "--limit", 3, *device)
        command(capsys, "segment", pictures, "--model", runs[recipe], "--out", home / f"s-{recipe}", *device)
    for recipe in ("stickers20-denseclip-retinanet", "stickers20-denseclip-maskrcnn"):
        command(capsys, "evaluate", runs[recipe], "stickers20", "--limit", 3, *device)
        command(capsys, "detect", pictures, "--model", runs[recipe], "--out", home / f"d-{recipe}", *device)
    pytest.importorskip("onnxscript")
    command(capsys, "export", runs["stickers20-annofree"], "--out", home / "student.onnx")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", ["tiny-rn", "tiny-vit"])
def test_masks_are_those_of_the_cpu(model, precision):
    spec = dataset_spec("stickers20")
    image = open_stickers(spec, "val", side=192)[0].image
    here, there = (
        denseclip.load(model, list(spec.classes), device=device, precision=how, refine="pd+ks").segment(image)
        for device, how in (("cpu", "fp32"), (DEVICE, precision))
    )
    assert (here.mask == there.mask).mean() > (0.999 if precision == "fp32" else 0.97)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_steps_of_each_kind(kind, precision, tmp_path):
    told = []
    outcome = train(
        KINDS[kind](precision=precision, panel_every=2), tmp_path, device=DEVICE, on_step=told.append
    )
    assert f"{precision} (asked for)" in outcome.precision and outcome.finished
    assert len(told) == 2 and all(math.isfinite(one.values["loss"]) for one in told)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [("cpu", DEVICE), (DEVICE, "cpu")], ids=["to the GPU", "to the CPU"])
def test_a_training_goes_on_on_another_device(kind, order, tmp_path):
    first, second = order
    recipe = KINDS[kind](precision="fp32")
    begun = train(recipe, tmp_path, device=first, stop=lambda: True)
    assert (begun.steps, begun.finished) == (1, False)
    ended = train(recipe, tmp_path, device=second)
    assert (ended.steps, ended.finished) == (1, True)
    state = torch.load(ended.checkpoint, map_location="cpu", weights_only=True)
    assert all(np.isfinite(t.float()).all() for t in state["model"].values())
