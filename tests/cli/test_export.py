"""Training-free models as files: the same masks without this library and without torch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import denseclip
from cli_support import run
from denseclip.data.published import dataset_spec
from denseclip.data.sticker_sets import open_stickers
from denseclip.errors import UserError
from denseclip.models.portable import TrainingFree

EXAMPLE = Path(__file__).parents[2] / "examples" / "masks_without_torch.py"
WORDS = "cat|kitten, dog, grass"


@pytest.mark.parametrize(
    ("model", "preset"),
    [
        ("tiny-rn", "maskclip"),
        pytest.param("tiny-vit", "maskclip", marks=pytest.mark.slow),
        pytest.param("tiny-vit", "naclip", marks=pytest.mark.slow),
    ],
)
def test_a_clip_with_its_words_runs_where_there_is_no_torch(tmp_path, capsys, model, preset):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    file = tmp_path / "words.onnx"
    options = ["--classes", WORDS, "--preset", preset, "--uint8", "--out", file]
    done = run(capsys, "export", model, *options)
    assert done.code == 0, done.err
    image = open_stickers(dataset_spec("stickers20"), "val", side=192)[0].image
    Image.fromarray(image).save(tmp_path / "picture.png")
    script = (
        "import runpy, sys; sys.modules['torch'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    )
    command = [sys.executable, "-c", script, EXAMPLE, file, tmp_path / "picture.png", tmp_path / "mask.png"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "'cat'" in told and "'grass'" in told
    expected = (
        denseclip.load(
            model,
            WORDS,
            preset=preset,
            resize="none",
            slide=None,
            background=None,
            refine=None,
            precision="fp32",
        )
        .segment(image)
        .mask
    )
    found = np.asarray(Image.open(tmp_path / "mask.png"))
    assert (found == expected).mean() >= 0.999


@pytest.mark.parametrize(
    ("options", "named"),
    [({"flip": True}, "--flip"), ({"refine": "pd"}, "--refine"), ({"threshold": 0.4}, "--threshold")],
)
def test_what_a_file_cannot_hold_is_refused(options, named):
    with pytest.raises(UserError, match=named):
        TrainingFree(denseclip.load("tiny-rn", WORDS, precision="fp32", **{"refine": None, **options}))


def test_its_scores_are_the_segmenters():
    model = denseclip.load("tiny-rn", WORDS, precision="fp32", background="wall", refine=None)
    images = torch.rand(2, 3, 64, 96)
    network = TrainingFree(model)
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.encoder.stats.mean, model.encoder.stats.std))
    with torch.no_grad():
        torch.testing.assert_close(network((images - mean) / std), model(images))


def test_words_and_names_of_files(tmp_path, capsys):
    assert "no words are given" in run(capsys, "export", "tiny-rn").err
    assert (
        "end it in .onnx"
        in run(capsys, "export", "tiny-rn", "--classes", WORDS, "--out", tmp_path / "a.pt").err
    )
