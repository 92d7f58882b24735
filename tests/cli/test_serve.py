"""`denseclip serve` as a user meets it."""

import json
import socket

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from cli_support import run
from clip_support import write_embedded
from denseclip.cli import serve
from web_support import Visitor


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_embedded(tmp_path_factory.mktemp("model") / "tiny", "rn")


def test_the_page_is_there_until_it_is_stopped(capsys, model, monkeypatch):
    seen = {}

    def visit(thread):
        seen["said"] = capsys.readouterr().out
        address = seen["said"].partition(" is on ")[2].split()[0]
        seen["page"] = Visitor(address).send("GET", "/")[:2]
        seen["about"] = Visitor(address).json("GET", "/api/about")
        seen["address"] = address

    monkeypatch.setattr(serve, "_until_stopped", visit)
    ran = run(capsys, "serve", "-m", model, "--port", "0", "--max-words", "7", "--preset", "vanilla")
    assert ran.code == 0, ran.err
    assert seen["said"].startswith("tiny: ResNet, ")
    assert seen["address"].startswith("http://127.0.0.1:")
    assert seen["page"][0] == 200
    assert b"<title>denseclip</title>" in seen["page"][1]
    about = seen["about"]
    assert about["model"]["text"] == seen["said"].splitlines()[0]  # its name, not where it lies
    assert (about["limits"]["words"], about["preset"]) == (7, "vanilla")
    with pytest.raises(ConnectionError):
        Visitor(seen["address"]).send("GET", "/")


def test_label_studio_is_answered_on_the_same_address(capsys, model, monkeypatch):
    seen = {}

    def visit(thread):
        said = capsys.readouterr().out
        visitor = Visitor(said.partition(" is on ")[2].split()[0])
        assert f"Backend URL {visitor.address}" in said
        seen["health"] = visitor.json("GET", "/health")
        task = {"id": 1, "data": {"image": "/data/upload/1/a.png"}}
        labels = "<BrushLabels name='b' toName='i'><Label value='cat'/></BrushLabels>"
        config = f"<View><Image name='i' value='$image'/>{labels}</View>"
        body = json.dumps({"tasks": [task], "label_config": config}).encode()
        seen["predict"] = visitor.send("POST", "/predict", body, content_type="application/json")[:2]

    monkeypatch.setattr(serve, "_until_stopped", visit)
    url = ("--label-studio-url", "http://127.0.0.1:9")  # nobody answers there
    ran = run(capsys, "serve", "-m", model, "--port", "0", "--label-studio", *url)
    assert ran.code == 0, ran.err
    assert seen["health"] == {"status": "UP", "model_class": "denseclip", "model_version": "denseclip tiny"}
    assert seen["predict"][0] == 400
    assert b"127.0.0.1:9/data/upload/1/a.png' cannot be fetched" in seen["predict"][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--preset", "maskclap"), "preset 'maskclap' is not for"),
        (("--preset", "maskclip-reduced"), "preset 'maskclip-reduced' is not for"),
        (("--host", "no.such.host.invalid"), "cannot be served"),
        (("--device", "tpu9"), "device 'tpu9' cannot be used"),
    ],
)
def test_mistakes_are_one_line(capsys, model, arguments, message):
    ran = run(capsys, "serve", "-m", model, "--port", "0", *arguments)
    assert ran.code == 2
    assert message in ran.err
    assert ran.err.count("\n") == 1


def test_a_port_in_use(capsys, model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = run(capsys, "serve", "-m", model, "--port", port)
    assert ran.code == 2
    assert f"127.0.0.1:{port} cannot be served" in ran.err
