"""What none of the words fits is background, unless somebody says otherwise."""

import json

import numpy as np
import pytest
import torch

import denseclip
from denseclip import UserError
from denseclip.data.stickers import render
from denseclip.segment.segmenter import Segmenter
from denseclip.segment.settings import Background
from denseclip.text import ClassEmbeddings, ClassPrompts
from denseclip.text.embeddings import near, pool, with_pool


def generic(names, matrix):
    return ClassEmbeddings(matrix, torch.arange(len(names)), tuple(names))


def test_the_pool_is_of_several_hundred_words_without_repetition():
    words = pool()
    assert 500 < len(words) < 800
    assert len({word.lower() for word in words}) == len(words)


def test_words_near_the_users_are_left_out_by_letters_and_by_vectors():
    names = ["racing car", "cars", "carpet", "lorry", *(f"word {i}" for i in range(40))]
    matrix = torch.nn.functional.normalize(
        torch.randn(44, 64, generator=torch.Generator().manual_seed(0)), dim=1
    )
    own = matrix[3:4]  # the vector of the lorry
    left = near(own, ("car",), generic(names, matrix))
    assert left.nonzero()[:, 0].tolist() == [0, 1, 3]
    classes = ClassEmbeddings(own, torch.zeros(1, dtype=torch.int64), ("car",))
    made = with_pool(classes, ("car",), generic(names, matrix), 0.5)
    assert made.lead == 0.5
    assert made.classes == ("background", "car")
    assert made.matrix.shape == (42, 64)
    assert made.class_of_prompt.tolist() == [0] * 41 + [1]


def test_class_0_of_many_prompts_is_reduced_to_its_best():
    scores = torch.randn(2, 7, 3, 4)
    many = ClassEmbeddings(
        torch.zeros(7, 8), torch.tensor([0, 0, 0, 0, 0, 1, 2]), ("background", "a", "b"), 5, 0.5
    )
    expected = torch.stack([scores[:, :5].amax(1) - 0.5, scores[:, 5], scores[:, 6]], 1)
    assert torch.equal(many.max_over_prompts(scores), expected)
    both = ClassEmbeddings(
        torch.zeros(7, 8), torch.tensor([0, 0, 0, 1, 1, 2, 2]), ("background", "a", "b"), 3
    )
    expected = torch.stack([scores[:, :3].amax(1), scores[:, 3:5].amax(1), scores[:, 5:].amax(1)], 1)
    assert torch.equal(both.max_over_prompts(scores), expected)


@pytest.fixture(scope="module")
def model():
    return denseclip.load("tiny-rn", ["giraffe"], precision="fp32", device="cpu", cache=False)


def test_auto_is_the_default_and_paints_little_where_the_word_is_not(model):
    assert model.classes == ("background", "giraffe")
    scene = render("demo", 0, side=160)
    assert "giraffe" not in scene.names
    result = model.segment(scene.image)
    assert result.has_background
    assert (result.mask == 1).mean() < 0.2


def test_none_is_the_old_behavior():
    old = denseclip.load(
        "tiny-rn", ["giraffe"], background="none", precision="fp32", device="cpu", cache=False
    )
    assert old.classes == ("giraffe",)
    assert (old.segment(np.zeros((64, 64, 3), np.uint8)).mask == 0).all()
    assert old.settings.background == Background()


def test_a_background_of_the_users_own_takes_its_place(model):
    own = denseclip.load("tiny-rn", ["background", "cat"], device="cpu", cache=False)
    assert own.classes == ("background", "cat")
    assert not own.settings.background
    with pytest.raises(UserError, match="background"):
        model.set_classes(["background", "cat"])
    assert model.classes == ("background", "giraffe")


def test_a_threshold_goes_with_it(model):
    picture = render("demo", 1, side=160).image
    few = denseclip.load(
        "tiny-rn", ["cat", "sky"], threshold=0.9, precision="fp32", device="cpu", cache=False
    )
    many = denseclip.load("tiny-rn", ["cat", "sky"], precision="fp32", device="cpu", cache=False)
    assert few.classes == many.classes == ("background", "cat", "sky")
    assert (few.segment(picture).mask > 0).sum() <= (many.segment(picture).mask > 0).sum()


def test_the_low_level_has_no_background_by_itself(model):
    assert Segmenter(model.clip, ClassPrompts.parse(["cat", "dog"])).classes == ("cat", "dog")


def test_the_command_has_the_same_default(tmp_path):
    from PIL import Image
    from typer.testing import CliRunner

    from denseclip.cli.main import app

    Image.fromarray(render("demo", 0, side=160).image).save(tmp_path / "scene.png")
    for extra, classes in (([], {"1": "giraffe"}), (["--background", "none"], {"0": "giraffe"})):
        out = tmp_path / f"out{len(extra)}"
        command = ["segment", str(tmp_path / "scene.png"), "--classes", "giraffe", "--out", str(out), *extra]
        done = CliRunner().invoke(app, [*command, "--resize", "none"])
        assert done.exit_code == 0, done.output
        assert json.loads((out / "classes.json").read_text()) == classes
