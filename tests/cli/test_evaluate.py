"""`denseclip evaluate` as a user meets it."""

import json
import re
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from cli_support import run
from clip_support import write_embedded
from denseclip.evaluate.result import Result
from denseclip.outputs import HOME
from own_data import write_own_data

FAST = ("--templates", "1", "--resize", "short:64", "--device", "cpu")
FILES = {"result.json", "classes.csv", "confusion.png", "examples.png", "counts.pt"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_embedded(tmp_path_factory.mktemp("model") / "tiny", "vit")


@pytest.fixture
def data(tmp_path):
    return write_own_data(tmp_path / "own", unseen=["dog"])


def plain(text):
    """Output without the breaks of a narrow terminal."""
    return " ".join(text.split())


def test_tables_and_files(capsys, model, data, tmp_path):
    out = tmp_path / "out"
    ran = run(capsys, "evaluate", model, data, *FAST, "-o", out)
    assert ran.code == 0, ran.err
    for words in ("protocol", "short:64", "dog (unseen)", "mIoU", "hIoU", "5 images counted, 0 skipped"):
        assert words in plain(ran.out)
    assert {path.name for path in out.iterdir() if path.name != HOME} == FILES
    summary = Result.from_json((out / "result.json").read_text()).summary()
    assert f"{summary['mIoU']:.2f}" in ran.out
    assert f"{summary['hIoU']:.2f}" in ran.out


def test_an_interrupted_evaluation_is_resumed_to_the_same_files(capsys, model, data, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(capsys, "evaluate", model, data, *FAST, "-o", whole).code == 0
    from denseclip.segment.segmenter import Segmenter

    segment, calls = Segmenter.segment, []

    def interrupted(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return segment(self, *arguments, **options)

    with patch.object(Segmenter, "segment", interrupted):
        ran = run(capsys, "evaluate", model, data, *FAST, "-o", parts)
    assert ran.code == 130
    assert {path.name for path in parts.iterdir() if path.name != HOME} == {"counts.pt"}
    again = run(capsys, "evaluate", model, data, *FAST, "-o", parts)
    assert again.code == 2
    assert "add --resume" in again.err
    assert run(capsys, "evaluate", model, data, *FAST, "-o", parts, "--resume").code == 0
    for name in FILES - {"counts.pt"}:
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_two_models_side_by_side(capsys, model, data, tmp_path):
    other = write_embedded(tmp_path / "other", "rn")
    out = tmp_path / "out"
    ran = run(capsys, "evaluate", model, data, *FAST, "--compare", other, "-o", out)
    assert ran.code == 0, ran.err
    assert "95 % interval over images" in plain(ran.out)
    assert {path.name for path in out.iterdir() if path.name != HOME} == {
        "first",
        "second",
        "comparison.json",
        "comparison.csv",
    }
    results = [Result.from_json((out / name / "result.json").read_text()) for name in ("first", "second")]
    content = json.loads((out / "comparison.json").read_text())
    one, two = (result.summary()["mIoU"] for result in results)
    assert content["differences"]["mIoU"]["value"] == pytest.approx(one - two, abs=0.006)
    assert results[0].protocol.weights != results[1].protocol.weights


def test_options_go_before_the_protocol(capsys, model, data):
    device = ("--device", "cpu", "--limit", "1")
    slide = run(capsys, "evaluate", model, data, *device, "--protocol", "slide", "--templates", "1")
    shown = plain(slide.out)
    assert "resize │ short:336" in shown
    assert "inference │ slide 224/112" in shown
    assert "templates │ 1 │" in shown
    official = run(
        capsys, "evaluate", model, data, *FAST, "--limit", "1", "--protocol", "official", "--refine", "ks"
    )
    assert "compat │ official" in plain(official.out)
    assert "key smoothing │ 1 over positions" in plain(official.out)


def test_sticker_sets_need_no_root(capsys, model):
    ran = run(capsys, "evaluate", model, "stickers59", *FAST, "--limit", "2")
    assert ran.code == 0, ran.err
    assert "2 images counted" in plain(ran.out)


def test_bad_images_are_counted_and_listed(capsys, model, data):
    (data / "images/2.png").write_bytes(b"\x89PNG broken")
    stopped = run(capsys, "evaluate", model, data, *FAST)
    assert (stopped.code, stopped.err.count("\n")) == (2, 1)
    assert "images/2.png" in stopped.err
    ran = run(capsys, "evaluate", model, data, *FAST, "--skip-bad")
    assert ran.code == 0
    assert "4 images counted, 1 skipped" in plain(ran.out)
    assert "images/2.png" in ran.out.replace("\n", "")


def undeclared_id(data):
    Image.fromarray(np.full((48, 64), 9, np.uint8)).save(data / "masks/1.png")
    return r"masks/1.png has id 9, which is not declared"


def other_size(data):
    Image.fromarray(np.zeros((40, 64), np.uint8)).save(data / "masks/1.png")
    return "masks/1.png is 64x40 but its image"


def unreadable_image(data):
    (data / "images/1.png").write_bytes(b"")
    return "images/1.png"


def unreadable_mask(data):
    (data / "masks/1.png").write_bytes(b"\x89PNG nothing")
    return "cannot read mask"


def no_mask(data):
    (data / "masks/1.png").unlink()
    return "no mask"


def empty_split(data):
    for path in (data / "images").iterdir():
        path.unlink()
    return "there is no image in"


def missing_folder(data):
    (data / "images").rename(data / "pictures")
    return "no images folder"


def damaged_description(data):
    (data / "data.json").write_text("{")
    return "is not JSON"


MISTAKES = (
    undeclared_id,
    other_size,
    unreadable_image,
    unreadable_mask,
    no_mask,
    empty_split,
    missing_folder,
    damaged_description,
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_bad_input_is_one_line_that_names_the_file(capsys, model, data, mistake):
    words = mistake(data)
    ran = run(capsys, "evaluate", model, data, *FAST)
    assert ran.code == 2
    assert ran.err.startswith("denseclip: ")
    assert ran.err.count("\n") == 1
    assert words in ran.err
    assert re.search("[:;,] ", ran.err.removeprefix("denseclip: "))  # and the fix


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("voc22",), "unknown data set 'voc22': did you mean voc21"),
        (("voc20",), "where is voc20? Give the folder that holds VOCdevkit"),
        (("voc20", "--data-root", "nowhere"), "no folder nowhere: create it"),
        (("stickers20", "--split", "test"), "stickers20 has no split 'test'"),
        (("stickers20", "--protocol", "theirs"), "protocol 'theirs' is unknown"),
        (("stickers20", "--resize", "big"), "cannot read the resize rule 'big'"),
        (("stickers20", "--background", "wall"), "stickers20 has no background class"),
        (("stickers20", "--resume"), "--resume needs the --out"),
    ],
)
def test_options_that_cannot_be_used(capsys, model, arguments, words):
    ran = run(capsys, "evaluate", model, *arguments)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert words in ran.err
