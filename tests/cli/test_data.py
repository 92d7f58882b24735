"""`denseclip data prepare` and `check` as a user meets them."""

import numpy as np
import pytest
from PIL import Image

from cli_support import run
from own_data import write_own_data


@pytest.fixture
def coco(tmp_path):
    """COCO-Stuff with two images of validation and none of training."""
    home = tmp_path / "coco_stuff164k"
    for folder in ("images/train2017", "images/val2017", "annotations/val2017"):
        (home / folder).mkdir(parents=True)
    for name in ("000000000139", "000000000285"):
        Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(home / f"images/val2017/{name}.jpg")
        Image.fromarray(np.full((6, 8), 12, np.uint8)).save(home / f"annotations/val2017/{name}.png")
    return home


def test_prepare_writes_once(capsys, coco):
    ran = run(capsys, "data", "prepare", "coco-stuff", coco.parent, "--workers", "1")
    assert ran.code == 0, ran.err
    assert "2 files written, 0 were there" in ran.out
    assert (coco / "annotations/val2017/000000000139_labelTrainIds.png").exists()
    again = run(capsys, "data", "prepare", "coco-stuff", coco.parent, "--workers", "1")
    assert "0 files written, 2 were there" in again.out


def test_prepare_lists_damaged_files_and_fails(capsys, coco):
    (coco / "annotations/val2017/000000000139.png").write_bytes(b"broken")
    ran = run(capsys, "data", "prepare", "coco-stuff", coco.parent, "--workers", "1")
    assert ran.code == 1
    assert "could not be converted: 1" in ran.out
    assert "000000000139.png" in ran.out
    assert "1 files written" in ran.out


def test_check_tells_what_is_wrong(capsys, coco):
    run(capsys, "data", "prepare", "coco-stuff", coco.parent, "--workers", "1")
    (coco / "images/val2017/000000000285.jpg").write_bytes(b"broken")
    ran = run(capsys, "data", "check", "coco-stuff", coco.parent)
    assert ran.code == 1
    assert "train: split train of coco-stuff is empty" in ran.out
    assert "unusable in val: 1" in ran.out
    assert "000000000285.jpg" in ran.out
    assert "5000" in ran.out  # how many there should be
    (coco / "annotations/val2017/000000000139_labelTrainIds.png").unlink()
    assert "missing in val: 1" in run(capsys, "data", "check", "coco-stuff", coco.parent, "--quick").out


def test_complete_data_is_told_with_exit_code_0(capsys, tmp_path):
    ran = run(capsys, "data", "check", write_own_data(tmp_path / "own"))
    assert ran.code == 0, ran.out
    assert "complete" in ran.out
    assert run(capsys, "data", "check", "stickers20").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("prepare", "voc22", "."), "unknown data set 'voc22'"),
        (("prepare", "voc20", "nowhere"), "no folder nowhere: create it"),
        (("prepare", "stickers20", "."), "stickers20 needs no preparation"),
        (("check", "voc22"), "unknown data set 'voc22'"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, words):
    ran = run(capsys, "data", *arguments)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert words in ran.err
