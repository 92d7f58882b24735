"""Words in quotes, in JSON, and as our own classes.json has them."""

import json

import numpy as np
import pytest

import denseclip
from denseclip.errors import UserError
from denseclip.text import ClassPrompts
from denseclip.text.prompts import split_words

SKY_CAR = [
    '"sky", "car"',
    "'sky','car'",
    "\u201csky\u201d, \u201ecar\u201c",
    "\u2018sky\u2019, \u201acar\u2018",
    "\u00absky\u00bb, car",
    '["sky", "car"]',
    "['sky', 'car']",
    '{"0": "sky", "1": "car"}',
    '{"1": "car", "0": "sky"}',
    '  ["sky", "car"]\n',
    '"sky"\n"car"\n',
    '"sky", "car",',
    " sky , 'car' ",
]


@pytest.mark.parametrize("text", SKY_CAR)
def test_two_plain_words(text, tmp_path):
    assert ClassPrompts.parse(text).to_dict() == {"sky": ["sky"], "car": ["car"]}
    suffix = ".json" if text.strip().startswith(("{", '["')) else ".txt"
    (tmp_path / f"words{suffix}").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert ClassPrompts.parse(tmp_path / f"words{suffix}").classes == ("sky", "car")


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ('"red, big car", dog', ["red, big car", "dog"]),
        ("men's shoe, dog", ["men's shoe", "dog"]),
        ("'men's shoe', dog", ["men's shoe", "dog"]),
        ("'60s car, dog", ["'60s car", "dog"]),
        ('19" screen, dog', ['19" screen', "dog"]),
        ("and[/]or, sky [blue]", ["and[/]or", "sky [blue]"]),
        ("[blue] sky, dog", ["[blue] sky", "dog"]),
    ],
)
def test_quotes_and_brackets_that_belong_to_a_word(text, classes):
    assert split_words(text) == classes
    assert list(ClassPrompts.parse(text).classes) == classes


def test_synonyms_in_quotes():
    for text in ('"cat"|"kitten", dog', '"cat|kitten", dog', '{"cat": ["cat", "kitten"], "dog": "dog"}'):
        assert ClassPrompts.parse(text).to_dict() == {"cat": ["cat", "kitten"], "dog": ["dog"]}


@pytest.mark.parametrize(
    "text",
    [
        '"sky, car',
        'sky, "car',
        'sky, car"',
        '"sky" blue, car',
        '""',
        '["sky"',
        '{"sky"',
        '{"sky": ["sky"]',
        "[]",
        "{}",
    ],
)
def test_what_is_not_closed_is_refused_in_one_line(text):
    with pytest.raises(UserError) as caught:
        ClassPrompts.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ids", [[2, 3], [1, 3], [0, 2], [0, 255], [7]])
def test_ids_that_masks_would_not_have_are_refused(ids, tmp_path):
    (tmp_path / "classes.json").write_text(json.dumps({str(k): f"class {k}" for k in ids}))
    with pytest.raises(UserError, match="masks count classes from 0 without gaps"):
        ClassPrompts.parse(tmp_path / "classes.json")


def test_ids_from_one_leave_zero_to_a_background_rule(tmp_path):
    (tmp_path / "classes.json").write_text('{"1": "sky", "2": "car"}')
    options = {"precision": "fp32", "cache": False, "templates": "1"}
    model = denseclip.load("tiny-rn", tmp_path / "classes.json", **options)
    assert model.classes == ("background", "sky", "car")
    result = model.segment(np.zeros((40, 40, 3), np.uint8))
    result.save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == {"1": "sky", "2": "car"}
    with pytest.raises(UserError, match="ids of the classes begin at 1"):
        denseclip.load("tiny-rn", tmp_path / "classes.json", background="none", **options)


@pytest.mark.parametrize(
    "text", ['cat, "dog', 'cat, "dog, bird', 'cat, "dog, bird, "fish"', 'cat, "dog\nbird']
)
def test_a_quote_that_opens_further_on_and_never_closes_is_refused_in_one_line(text):
    with pytest.raises(UserError, match="the quote before 'dog' is not closed") as caught:
        ClassPrompts.parse(text)
    assert "\n" not in str(caught.value)
