"""The command and the lines of Python give the page's mask."""

import shlex

import numpy as np
import pytest
from PIL import Image

from cli_support import run
from clip_support import write_embedded
from denseclip.web import views
from denseclip.web.model_server import ModelServer
from denseclip.web.request import Limits, Origin, command, mask_name, plain_name, python_lines
from denseclip.web.session import Session
from web_support import noise, question

QUESTIONS = [
    question(),
    question('it\'s "red"|a b, -flag, =two dogs, c;d $HOME\nnew line', preset="vanilla"),
    question("cat, dog", background="usual", threshold=0.4, size=384),
    question("cat, dog.txt", background="sky|cloud, my.txt", refine="pd=0.3+ks=0.95"),
    question("mr. dog", threshold=0.123, preset="clearclip", templates="a map of {}."),
    question("voc", size=512, refine="ks=1"),
]
CASES = [*((asked, "noise.png") for asked in QUESTIONS), (QUESTIONS[0], "-it's a [photo].png")]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a model")
    return ModelServer.open(Origin(str(write_embedded(folder / "tiny", "rn")), precision="fp32"), Limits())


@pytest.mark.parametrize(
    ("asked", "name"), CASES, ids=[f"{asked.words[:16]}-{name}" for asked, name in CASES]
)
def test_command_and_python_give_the_mask_of_the_page(server, capsys, tmp_path, monkeypatch, asked, name):
    monkeypatch.chdir(tmp_path)
    session = Session(server.shared, server.limits)
    answer = session.ask(asked) if session.show(name, noise()) else None
    (tmp_path / name).write_bytes(views.picture_png(answer.picture))

    program, *arguments = shlex.split(command(server.origin, asked, name))
    assert program == "denseclip"
    ran = run(capsys, *arguments)
    assert ran.code == 0, ran.err
    by_command = np.asarray(Image.open(tmp_path / "runs" / "segment" / name))
    assert (by_command == answer.result.mask).all()

    names: dict = {}
    exec(python_lines(server.origin, asked, name), names)
    assert (names["result"].mask == answer.result.mask).all()
    assert names["result"].classes == answer.result.classes
    assert (np.asarray(Image.open(tmp_path / mask_name(name))) == answer.result.mask).all()


def test_only_what_differs_from_the_defaults_is_written():
    plain = question("cat, dog", templates="85", size=512)
    assert command(Origin("tiny-rn"), plain, "a.png") == (
        "denseclip segment a.png --model tiny-rn --classes 'cat, dog' --preset maskclip"
    )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("cat.png", "cat.png"),
        ("C:\\Users\\me\\cat.png", "cat.png"),
        ("../../etc/passwd", "passwd"),
        ("", "picture.png"),
        ("..", "picture.png"),
        ("a\x00b\n.png", "ab.png"),
        ("größe 1.png", "größe 1.png"),
        ("x" * 500 + ".jpeg", "x" * 115 + ".jpeg"),
    ],
)
def test_names_of_files(given, kept):
    assert plain_name(given) == kept
