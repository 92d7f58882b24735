"""The page's server over real connections."""

import json
import threading
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from denseclip.errors import UserError
from denseclip.web.app import serving
from denseclip.web.request import Limits
from denseclip.web.session import Session
from web_support import Visitor, noise, png, question, server

MODULES = ("api", "compare", "keys", "panels", "stage", "words")
LIMITS = Limits(upload=100_000, pixels=20_000, words=50, text=10_000)


@pytest.fixture(scope="module")
def address():
    with serving(server(LIMITS)) as (address, _):
        yield address


@pytest.fixture
def visitor(address):
    return Visitor(address).open()


def test_a_visit(visitor):
    status, shown = visitor.upload(png(noise()), "my%20noise.png")
    assert (status, shown) == (200, {"name": "my noise.png", "height": 40, "width": 60, "number": 1})
    header, mask = visitor.ask(question("cat|kitten, dog", background="none"))
    expected = Session(server().shared, LIMITS)
    expected.show("x", noise())
    assert (mask == expected.ask(question("cat|kitten, dog", background="none")).result.mask).all()
    assert [one["name"] for one in header["classes"]] == ["cat", "dog"]
    assert [one["area"] for one in header["classes"]] == np.bincount(mask.ravel(), minlength=2).tolist()
    assert header["classes"][0]["words"] == ["cat", "kitten"]
    assert header["encoded"]
    assert not visitor.ask(question("cow"))[0]["encoded"]
    header, mask = visitor.ask(question("cat, dog", background="sky"))
    assert header["background"] == 0
    assert header["classes"][0] | {"area": 0, "peak": 0} == {
        "name": "background", "words": ["sky"], "color": "#000000", "area": 0, "scored": True, "peak": 0
    }  # fmt: skip
    assert all(0 <= one["peak"] <= 1 for one in header["classes"])

    pixel = visitor.json("POST", "/api/pixel", {"row": 3, "column": 59})
    assert pixel["class"] == header["classes"][mask[3, 59]]["name"]
    assert len(pixel["words"]) == 3
    for name in ("mask.png", "overlay.png", "picture.png", "picture.jpg"):
        status, content, _ = visitor.send("GET", f"/api/{name}")
        assert Image.open(BytesIO(content)).size[0] == 60, name
        if name == "mask.png":
            assert (np.asarray(Image.open(BytesIO(content))) == mask).all()
    assert visitor.json("GET", "/api/coco.json")["images"][0]["file_name"] == "my noise.png"
    status, content, _ = visitor.send("GET", "/api/heat/1")
    assert status == 200
    state = visitor.json("GET", "/api/session")
    assert state["picture"] == shown
    assert state["roll"] == [shown]
    assert state["question"] == question("cat, dog", background="sky").json()


def test_an_example(visitor):
    shown = visitor.json("POST", "/api/example/1")
    assert shown["name"].startswith("scene-")
    header, mask = visitor.ask(question(shown["words"]))
    assert mask.shape == (512, 512)
    assert "scene-" in header["command"]
    _, content, _ = visitor.send("GET", "/api/example/0.jpg")
    assert Image.open(BytesIO(content)).size == (128, 128)


def test_several_pictures_are_kept_and_turned_to(visitor):
    first, second = (visitor.upload(png(noise(40, 60, seed=k)), f"{k}.png")[1] for k in range(2))
    assert [first["number"], second["number"]] == [1, 2]
    assert visitor.json("POST", "/api/picture/1") == first
    assert visitor.json("GET", "/api/session")["picture"] == first
    assert [one["name"] for one in visitor.json("GET", "/api/session")["roll"]] == ["0.png", "1.png"]
    picture = Image.open(BytesIO(visitor.send("GET", "/api/picture.png")[1]))
    assert (np.asarray(picture) == noise(40, 60, seed=0)).all()
    small = Image.open(BytesIO(visitor.send("GET", "/api/picture/2/small.jpg")[1]))
    assert small.size == (128, 128)
    visitor.json("POST", "/api/example/0")  # examples take no place in the row
    assert len(visitor.json("GET", "/api/session")["roll"]) == 2
    status, said, _ = visitor.send("POST", "/api/picture/3")
    assert (status, b"no longer kept" in said) == (400, True)
    stranger = Visitor(visitor.address).open()
    assert stranger.send("GET", "/api/picture/1/small.jpg")[0] == 400


def test_class_sets_are_told(visitor):
    sets = visitor.json("GET", "/api/sets")
    assert len(sets["voc"]) == 20
    assert "sheep" in sets["voc"]


def test_visitors_do_not_see_each_other(address):
    one, two = Visitor(address).open(), Visitor(address).open()
    one.upload(png(noise(40, 60, seed=1)), "one.png")
    for path in ("/api/picture.jpg", "/api/picture.png", "/api/mask.png", "/api/coco.json", "/api/heat/0"):
        status, content, _ = two.send("GET", path)
        assert status == 400, path
        assert b"there is no picture yet" in content
    assert two.json("GET", "/api/session") == {"roll": [], "picture": None, "question": None}
    two.upload(png(noise(30, 50, seed=2)), "two.png")
    assert one.ask(question("cat, dog"))[1].shape == (40, 60)
    assert two.ask(question("cow"))[1].shape == (30, 50)
    assert one.json("GET", "/api/session")["question"]["words"] == "cat, dog"
    picture = Image.open(BytesIO(one.send("GET", "/api/picture.png")[1]))
    assert (np.asarray(picture) == noise(40, 60, seed=1)).all()


def test_visitors_at_the_same_time_get_their_own_answers(address):
    expected, got = {}, {}

    def visit(number):
        visitor = Visitor(address).open()
        image = noise(40, 60, seed=number)
        visitor.upload(png(image))
        alone = Session(server().shared, LIMITS)
        alone.show("x", image)
        asked = [question(f"thing {number}, cat, dog {i}") for i in range(3)]
        got[number] = [visitor.ask(each)[1] for each in asked]
        expected[number] = [alone.ask(each).result.mask for each in asked]

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 6
    for number, masks in expected.items():
        assert all((a == b).all() for a, b in zip(got[number], masks, strict=True))


BAD_FILES = [
    (b"just text", "notes.png", 400, "picture notes.png is no picture in a known format"),
    (b"", "empty.jpg", 400, "picture empty.jpg is empty"),
    (png(noise())[:60], "cut.png", 400, "picture cut.png is cut short or damaged"),
    (
        png(np.zeros((150, 200, 3), np.uint8)),
        "wide.png",
        400,
        "picture wide.png has 200 x 150 pixels, more than",
    ),
    (b"x" * 100_001, "big.bin", 413, "the file is larger than 0.0954 MiB"),
    (b"<svg/>", "%0a%00..%2f..%2fx.svg", 400, "picture x.svg is no picture"),
]


@pytest.mark.parametrize(("content", "name", "code", "message"), BAD_FILES, ids=lambda value: str(value)[:20])
def test_a_bad_file_is_a_message(visitor, content, name, code, message):
    visitor.upload(png(noise()))
    status, said = visitor.upload(content, name)
    assert status == code
    assert said["error"].startswith(message)
    assert "\n" not in said["error"]
    assert visitor.json("GET", "/api/session")["picture"]["name"] == "noise.png"  # still there


def test_a_bad_question_is_a_message(visitor):
    visitor.upload(png(noise()))
    too_many = question(", ".join(f"w{i}" for i in range(51))).json()
    for body, message in (
        (b"{", "no JSON"),
        (b"[" * 50_000, "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"{}", "a question is an object"),
        (json.dumps(too_many).encode(), "51 words are more than the 50 of this page"),
        (json.dumps(question("cat, cat").json()).encode(), "given twice"),
        (json.dumps(question("\ud800").json()).encode(), "control characters"),
        (json.dumps(question("word " * 200).json()).encode(), "characters; use at most"),
    ):
        status, content, _ = visitor.send("POST", "/api/answer", body)
        assert status == 400, body[:40]
        assert message in json.loads(content)["error"]
    status, content, _ = visitor.send("POST", "/api/answer", b" " * 70_000)
    assert status == 413
    for pixel in ({"row": 1}, {"row": 1.5, "column": 2}, [], {"row": 10**9, "column": 0}):
        status, _, _ = visitor.send("POST", "/api/pixel", json.dumps(pixel).encode())
        assert status == 400
    status, content, _ = visitor.send("GET", "/api/heat/5")
    assert (status, "nothing is segmented" in content.decode()) == (400, True)


def test_strangers_get_nothing(address):
    for token in ("", "guess"):
        status, content, _ = Visitor(address, token).send("GET", "/api/picture.png")
        assert status == 410
        assert "has ended" in json.loads(content)["error"]
    status, _, _ = Visitor(address, "").send("POST", "/api/session")
    assert status == 403  # the form of another site can do no more than this
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example"):
        status, content, _ = Visitor(address).send("GET", "/", host=host)
        assert status == 421


def test_only_the_page_is_served(visitor):
    for path in (
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static//etc/passwd",
        "/docs",
        "/api",
        "/static/",
    ):
        status, _, _ = visitor.send("GET", path)
        assert status == 404, path
    assert visitor.send("DELETE", "/api/session")[0] == 405


def test_the_page_asks_nobody_else(visitor):
    status, page, headers = visitor.send("GET", "/")
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "access-control-allow-origin" not in headers
    files = ["app.js", "style.css", "icon.svg", *(f"{name}.js" for name in MODULES)]
    texts = [page, *(visitor.send("GET", f"/static/{name}")[1] for name in files)]
    for text in texts:
        assert b"https:" not in text
        assert b"http:" not in text.replace(b"http://www.w3.org/2000/svg", b"")


def test_a_defect_is_a_sentence_to_visitors(visitor, monkeypatch):
    visitor.upload(png(noise()))
    monkeypatch.setattr(Session, "ask", lambda self, asked: 1 / 0)
    status, content, _ = visitor.send("POST", "/api/answer", json.dumps(question().json()).encode())
    assert status == 500
    assert json.loads(content)["error"].startswith("something broke here")
    assert b"division" not in content


def test_an_address_in_use_is_a_message(address):
    port = int(address.rpartition(":")[2])
    with pytest.raises(UserError, match=f"127.0.0.1:{port} cannot be served"), serving(server(), port=port):
        pass
    with pytest.raises(UserError, match="cannot be served"), serving(server(), host="no.such.host.invalid"):
        pass
