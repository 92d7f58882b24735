"""The commands as functions: option by option those of the command line, with results in place of print."""

import json
import subprocess
import sys

import numpy as np
import pytest

import denseclip
from denseclip.errors import UserError
from label_support import write_scenes


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("pictures"), 2)


def test_label_takes_words_and_paths_and_gives_a_summary(pictures, tmp_path, capsys):
    summary = denseclip.label(
        pictures, classes=["cat", "dog"], out=str(tmp_path / "labels"), format="png,coco", precision="fp32"
    )
    assert summary.labeled == 2 and not summary.skipped
    assert len(json.loads((tmp_path / "labels" / "coco.json").read_text())["images"]) == 2
    assert capsys.readouterr().out == ""


def test_pictures_that_are_left_out_do_not_end_the_program(pictures, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "good.png").write_bytes((pictures / "0.png").read_bytes())
    (folder / "torn.png").write_bytes((pictures / "0.png").read_bytes()[:100])
    summary = denseclip.label(folder, classes="cat, dog", out=tmp_path / "labels", precision="fp32")
    assert (summary.labeled, summary.skipped) == (1, 1)


def test_evaluate_gives_a_result_and_knows_what_was_asked(tmp_path):
    result = denseclip.evaluate("tiny-rn", "stickers20", limit=2, protocol="ours", precision="fp32")
    assert result.protocol.images == 2 and 0 < result.summary()["mIoU"] <= 100
    with pytest.raises(UserError, match="unknown"):
        denseclip.evaluate("tiny-rn", "stickers20", protocol="theirs")


def test_train_gives_a_checkpoint_that_is_a_model(tmp_path):
    changes = ["steps=1", "batch=2", "data.images=4", "workers=0", "augment.crop=[64,64]", "save_every=0"]
    outcome = denseclip.train("stickers20-annofree", changes, out=tmp_path / "run", no_evaluation=True)
    assert outcome.finished and outcome.checkpoint.is_file()
    model = denseclip.load(outcome.checkpoint)
    assert model.segment(np.zeros((64, 64, 3), np.uint8)).mask.shape == (64, 64)


def test_export_gives_the_file(tmp_path):
    pytest.importorskip("onnxscript")
    assert denseclip.export("tiny-rn", classes=["cat"], out=tmp_path / "m.onnx") == tmp_path / "m.onnx"


def test_mistakes_are_errors_for_users():
    with pytest.raises(UserError, match="there is no picture nowhere"):
        denseclip.label("nowhere", classes="cat")
    with pytest.raises(TypeError, match="unexpected keyword"):
        denseclip.label("nowhere", classess="cat")


@pytest.mark.parametrize("name", ["label", "train", "evaluate"])
def test_rooms_are_called_like_their_commands_whatever_was_imported(name):
    code = (
        f"import denseclip, inspect; before = denseclip.{name}\n"
        f"import denseclip.{name}\nimport importlib; importlib.import_module('denseclip.{name}')\n"
        f"assert callable(before) and callable(denseclip.{name})\n"
        f"from denseclip.errors import UserError\n"
        f"try: denseclip.{name}(no_such_option=1)\nexcept TypeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip()


def test_the_version():
    assert denseclip.__version__.count(".") == 2
