"""What is here, and what an unknown name might have meant."""

import pytest

from cli_support import run
from denseclip.text import class_set
from denseclip.train.recipe import recipe_names


def test_version_names_what_figures_depend_on(capsys):
    ran = run(capsys, "--version")
    assert ran.code == 0
    assert all(part in ran.out for part in ("denseclip 0.", "torch 2.", "fp32", "CPU"))


def test_doctor_names_each_extra(capsys):
    ran = run(capsys, "doctor")
    assert ran.code == 0, ran.err
    assert all(extra in ran.out for extra in ("evaluate", "train", "export", "coco", "web", "GiB free"))


def test_lists(capsys):
    assert len(run(capsys, "recipes").out.strip().splitlines()) == len(recipe_names())
    lines = run(capsys, "classes", "voc").out.strip().splitlines()
    assert lines == [f"{number} {word.strip()}" for number, word in enumerate(class_set("voc"))]


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (("segment", "x.png", "--classes", "vocc"), "give --classes voc"),
        (("segment", "x.png", "--classes", "contexts"), "give --classes context"),
        (("classes", "coco-stuf"), "did you mean coco-stuff?"),
        (("segment", "x.png", "--classes", "cat", "--model", "VIT-B/16"), "did you mean ViT-B-16"),
        (("segment", "x.png", "--classes", "cat", "--preset", "naklip"), "did you mean naclip"),
        (("evaluate", "tiny-rn", "voc"), "did you mean voc2"),
        (("evaluate", "tiny-rn", "cityscape"), "did you mean cityscapes?"),
        (("evaluate", "tiny-rn", "stickers20", "--protocol", "oficial"), "did you mean official?"),
        (("label", "x.png", "--classes", "cat", "--format", "coca"), "did you mean coco?"),
        (("train", "sticker20-annofree"), "stickers20-annofree"),
    ],
)
def test_did_you_mean(capsys, tmp_path, monkeypatch, arguments, fix):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32)).save("x.png")
    ran = run(capsys, *arguments)
    assert ran.code == 2 and fix in ran.err and ran.err.count("\n") == 1, ran.err


def test_a_word_that_is_close_to_a_set_can_still_be_meant():
    from denseclip.text import ClassPrompts

    assert ClassPrompts.parse("vocc,").classes == ("vocc",)
    assert ClassPrompts.parse("cite").classes == ("cite",)
