"""Questions from the page's JSON."""

import pytest

from denseclip.errors import UserError
from denseclip.web.request import Limits, Origin, SegmentRequest, command
from web_support import question


def parse(**raw):
    return SegmentRequest.parse({"words": "cat", "preset": "maskclip", **raw}, Limits())


def test_json_and_back():
    asked = question(background="sky, wall", threshold=0.3, refine="pd=0.2+ks=0.9")
    assert SegmentRequest.parse(asked.json(), Limits()) == asked


def test_fusion_and_a_proxy_tower_are_asked_for_but_no_file_is():
    asked = question(preset="proxyclip", fusion="features", proxy="timm:vit_small")
    assert (asked.settings().fusion, asked.settings().dense.proxy) == ("features", "timm:vit_small")
    assert command(Origin("m.pt"), asked, "a.jpg").endswith(
        "--fusion features --proxy timm:vit_small --resize 2048x256 --templates 1"
    )
    with pytest.raises(UserError, match="the page opens no files; write proxy as timm:NAME"):
        question(preset="proxyclip", proxy="/etc/passwd").settings()


def test_settings_are_those_of_the_same_options():
    settings = question(background="usual", threshold=0.3, refine="pd=0.25").settings()
    assert (settings.refine.pd, settings.refine.ks) == (0.25, 0)
    assert (settings.background.words, settings.background.threshold) == (("usual",), 0.3)
    assert str(settings.resize) == "2048x256"
    assert len(settings.templates) == 1


@pytest.mark.parametrize(
    ("refine", "guided", "pamr"), [("", True, False), ("none", False, False), ("pd=0.5+pamr", False, True)]
)
def test_outlines_by_switch(refine, guided, pamr):
    found = question(refine=refine).settings().refine
    assert (found.guided, bool(found.pamr)) == (guided, pamr)


@pytest.mark.parametrize(
    "raw",
    [None, 3, [], "cat", {}, {"words": "cat"}, {"words": "cat", "preset": "maskclip", "model": "/etc"}],
    ids=repr,
)
def test_what_is_no_question_is_refused(raw):
    with pytest.raises(UserError, match="a question is"):
        SegmentRequest.parse(raw, Limits())


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"words": ["cat"]}, "words must be a text"),
        ({"preset": 1}, "preset must be a text"),
        ({"threshold": "0.5"}, "threshold must be a number"),
        ({"threshold": float("nan")}, "threshold must be a number"),
        ({"threshold": True}, "threshold must be a number"),
        ({"size": 100_000}, "size must be one of"),
        ({"size": [512]}, "size must be one of"),
        ({"size": True}, "size must be one of"),
        ({"words": "x" * 300_000}, "longer than 200,000 characters"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_values_of_the_wrong_kind_are_refused(raw, message):
    with pytest.raises(UserError, match=message):
        parse(**raw)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"preset": "maskclap"}, "preset 'maskclap' is unknown"),
        ({"threshold": 1.5}, "no probability"),
        ({"refine": "much"}, "refinement 'much'"),
        ({"templates": "many"}, "no templates 'many'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_settings_that_cannot_be_are_refused(raw, message):
    with pytest.raises(UserError, match=message):
        parse(**raw).settings()


def test_words_are_counted_with_their_synonyms():
    assert len(parse(words="a|b, c").prompts(Limits(words=3)).words) == 3
    with pytest.raises(UserError, match="4 words are more than the 3 of this page"):
        parse(words="a|b, c, d").prompts(Limits(words=3))
    many = ", ".join(f"thing {i}" for i in range(3000))
    with pytest.raises(UserError, match="3,000 words"):
        parse(words=many).prompts(Limits())


def test_no_words_and_class_sets():
    with pytest.raises(UserError, match="no words are given"):
        parse(words=" \n").prompts(Limits())
    assert len(parse(words="voc").prompts(Limits()).classes) == 20


@pytest.mark.parametrize("words", ["secret.txt", " secret.json ", "./secret.TXT"])
def test_a_file_of_the_server_is_never_opened(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("secret.txt", "secret.json"):
        (tmp_path / name).write_text('["the secret"]')
    with pytest.raises(UserError, match="opens no files"):
        parse(words=words).prompts(Limits())
    with pytest.raises(UserError, match="opens no files"):
        parse(background=words).settings()


@pytest.mark.parametrize("words", ["cat\nsecret.txt", "secret.yaml", "a.b\n\nsecret.txt\n ", "secret.csv"])
def test_words_that_look_like_a_file_are_words(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("secret.txt", "secret.csv", "cat\nsecret.txt"):
        (tmp_path / name).write_text("the secret")
    expected = tuple(line.strip() for line in words.splitlines() if line.strip())
    assert parse(words=words).prompts(Limits()).classes == expected
    assert parse(background=words).settings().background.words == expected
