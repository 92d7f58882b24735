"""Example pictures."""

import pytest

from denseclip.data.stickers import render
from denseclip.errors import UserError
from denseclip.text import ClassPrompts
from denseclip.web.views import SCENES, SIDE, SPLIT, example, example_thumbnail


@pytest.mark.parametrize("index", range(len(SCENES)))
def test_words_name_what_is_there(index):
    shown = example(index)
    classes = ClassPrompts.parse(shown.words).classes
    assert set(render(SPLIT, SCENES[index], side=64).names) <= set(classes)
    assert shown.image.shape == (SIDE, SIDE, 3)
    assert example_thumbnail(index).shape == (128, 128, 3)


def test_there_are_only_so_many():
    for index in (-1, len(SCENES), 10**9):
        with pytest.raises(UserError, match="there is no example"):
            example(index)
