"""Label Studio's requests as it documents and sends them (label_studio/ml/api_connector.py), answered over HTTP."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from denseclip.data.stickers import render
from denseclip.segment.segmenter import Segmenter
from denseclip.web.app import serving
from denseclip.web.ml_backend import Interface, LabelStudio
from denseclip.web.model_server import ModelServer
from denseclip.web.request import Limits, Origin, SegmentRequest
from web_support import Visitor, noise, png, server

KEY = "0123abcd"
SCENE = render("demo", 19, side=256).image
BRUSH = """<View>
  <Image name="photo" value="$picture" zoom="true"/>
  <Header value="$title"/>
  <BrushLabels name="tags" toName="photo">
    <Label value="Sea" predicted_values="water, waves" background="#0000ff"/>
    <Label value="horse"/><Label value="cup"/><Label value="background" predicted_values="sky,grass"/>
  </BrushLabels>
</View>"""
POLYGONS = BRUSH.replace("BrushLabels", "PolygonLabels")
BOXES = BRUSH.replace("BrushLabels", "RectangleLabels")


class Studio(BaseHTTPRequestHandler):
    """Pictures as Label Studio gives them out: to those who have the token."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        if self.headers.get("Authorization") != f"Token {KEY}":
            return self.answer(401, b"")
        if "presign" in self.path:
            self.send_response(303)
            self.send_header("Location", f"{self.server.elsewhere}/bucket/a.png")
            return self.end_headers()
        return self.answer(200, png(SCENE) if self.path.endswith("a.png") else b"no picture")

    def answer(self, status, content):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class Bucket(Studio):
    """Pictures for everybody."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        self.answer(200, png(SCENE))


@pytest.fixture
def places():
    """The addresses of a Label Studio and of a bucket; what they are asked is in `asked`."""
    made = [HTTPServer(("127.0.0.1", 0), kind) for kind in (Studio, Bucket)]
    for one in made:
        one.asked = []
        one.address = f"http://127.0.0.1:{one.server_port}"
        threading.Thread(target=one.serve_forever, daemon=True).start()
    made[0].elsewhere = made[1].address
    yield made
    for one in made:
        one.shutdown()
        one.server_close()


@pytest.fixture(scope="module")
def tiny():
    return ModelServer.open(Origin("tiny-rn"), Limits(upload=2_000_000, pixels=500_000))


@pytest.fixture
def backend(tiny, places):
    label_studio = LabelStudio(tiny, places[0].address, KEY)
    with serving(tiny, label_studio=label_studio) as (address, _):
        yield Visitor(address, "")


def setup(schema=BRUSH, **changes):
    return {
        "project": "7.1700000000",
        "schema": schema,
        "hostname": "http://evil.example",
        "access_token": "stolen",
        "extra_params": None,
        **changes,
    }


def predict(*pictures, config=BRUSH, **changes):
    tasks = [
        {"id": 10 + k, "data": {"picture": where, "title": "x"}, "annotations": [], "predictions": []}
        for k, where in enumerate(pictures)
    ]
    return {
        "tasks": tasks,
        "model_version": "denseclip tiny-rn",
        "project": "7.1700000000",
        "label_config": config,
        "params": {"login": None, "password": None, "context": None},
        **changes,
    }


def post(visitor, path, body, kind="application/json"):
    status, content, _ = visitor.send("POST", path, json.dumps(body).encode(), content_type=kind)
    return status, json.loads(content)


def expected(tiny):
    prompts = Interface.parse(BRUSH).prompts
    settings = SegmentRequest(words="x", preset=tiny.preset, background="none").settings(
        tiny.shared.model.recommended
    )  # there is a label
    return Segmenter(tiny.shared.model, prompts, settings).segment(SCENE)


def test_health_and_setup(backend):
    health = backend.json("GET", "/health")
    assert health["status"] == "UP"
    for schema in (BRUSH, ""):  # it sets up before there is an interface, too
        status, said = post(backend, "/setup", setup(schema))
        assert (status, said) == (200, {"model_version": "denseclip tiny-rn"})
    assert post(backend, "/webhook", {"action": "ANNOTATION_CREATED", "annotation": {}})[0] == 201
    assert backend.send("GET", "/")[0] == 200  # the page is there, too


def test_brushes_are_the_mask(backend, tiny):
    brush = pytest.importorskip("label_studio_converter.brush")
    status, said = post(backend, "/predict", predict("/data/upload/7/a.png", "/data/local-files/?d=x/a.png"))
    assert status == 200
    assert said["model_version"] == "denseclip tiny-rn"
    one, other = said["results"]
    assert one["model_version"] == "denseclip tiny-rn"
    assert 0 < one["score"] <= 1
    assert [part["value"] for part in one["result"]] == [part["value"] for part in other["result"]]
    result = expected(tiny)
    painted = np.full(result.mask.shape, -1)
    for part in one["result"]:
        assert (part["type"], part["from_name"], part["to_name"]) == ("brushlabels", "tags", "photo")
        assert (part["original_width"], part["original_height"]) == (256, 256)
        (name,) = part["value"]["brushlabels"]
        region = brush.decode_rle(part["value"]["rle"]).reshape(256, 256, 4)[..., 3] > 0
        assert (painted[region] == -1).all()
        painted[region] = result.classes.index(name)
        assert 0 < part["score"] <= 1
    background = result.classes.index("background")
    assert "background" not in {part["value"]["brushlabels"][0] for part in one["result"]}
    covered = painted >= 0
    assert (painted[covered] == result.mask[covered]).all()
    assert covered.mean() > (result.mask != background).mean() - 0.02  # small regions are left out
    assert {"Sea", "horse"} <= {part["value"]["brushlabels"][0] for part in one["result"]}
    assert len({part["id"] for part in one["result"]}) == len(one["result"])


def test_boxes_and_polygons_are_percent_of_the_picture(backend, tiny):
    import cv2

    _, brushes = post(backend, "/predict", predict("/data/upload/7/a.png"))
    for config, kind in ((BOXES, "rectanglelabels"), (POLYGONS, "polygonlabels")):
        status, said = post(backend, "/predict", predict("/data/upload/7/a.png", config=config))
        assert status == 200
        parts = said["results"][0]["result"]
        assert len(parts) == len(brushes["results"][0]["result"])
        mask, classes = expected(tiny).mask, expected(tiny).classes
        for part in parts:
            (name,) = part["value"][kind]
            assert part["type"] == kind
            if kind == "rectanglelabels":
                x, y, w, h = (part["value"][side] / 100 * 256 for side in ("x", "y", "width", "height"))
                inside = mask[round(y) : round(y + h), round(x) : round(x + w)] == classes.index(name)
                assert (inside.any(0).all() and inside.any(1).all()) or w * h > 5000
            else:
                points = np.array(part["value"]["points"]) / 100 * 256
                assert points.min() >= 0 and points.max() <= 256
                filled = (
                    cv2.fillPoly(np.zeros(mask.shape, np.uint8), [points.round().astype(np.int32)], 1) > 0
                )
                if filled.sum() > 400:
                    assert (mask[filled] == classes.index(name)).mean() > 0.85


def test_what_no_label_fits_stays_bare(backend, tiny):
    config = BRUSH.replace('<Label value="background" predicted_values="sky,grass"/>', "").replace(
        '<Label value="Sea" predicted_values="water, waves" background="#0000ff"/>', ""
    )
    brush = pytest.importorskip("label_studio_converter.brush")
    _, said = post(backend, "/predict", predict("/data/upload/7/a.png", config=config))
    parts = said["results"][0]["result"]
    assert {part["value"]["brushlabels"][0] for part in parts} <= {"horse", "cup"}
    covered = sum((brush.decode_rle(part["value"]["rle"])[3::4] > 0).mean() for part in parts)
    assert 0.02 < covered < 0.4  # horse and cup, not the water around them


def test_settings_of_a_project(backend, tiny):
    status, said = post(backend, "/setup", setup(extra_params=json.dumps({"preset": "vanilla"})))
    assert status == 200
    _, strict = post(backend, "/predict", predict("/data/upload/7/a.png", config=None))
    _, plain = post(backend, "/predict", predict("/data/upload/7/a.png", project="8.1"))
    assert len(plain["results"][0]["result"]) > 0
    assert strict["results"][0] != plain["results"][0]
    for extra, message in (
        ("{", "no JSON"),
        ('{"thresh": 1}', "is an object"),
        ('{"preset": "x"}', "'x'"),
        ('{"threshold": 0.5}', "already"),
    ):
        status, said = post(backend, "/setup", setup(extra_params=extra))
        assert (status, message in said["error"]) == (400, True), said


def test_pictures_come_from_label_studio_only(backend, places, tiny):
    studio, bucket = places
    for where in (
        f"{bucket.address}/a.png",
        "file:///etc/passwd",
        "http://169.254.169.254/a",
        "/../../etc/passwd",
        3,
        "",
    ):
        status, _ = post(backend, "/predict", predict(where))
        assert status == 400, where
    assert "only, and" in post(backend, "/predict", predict(f"{bucket.address}/a.png"))[1]["error"]
    assert not bucket.asked
    status, _ = post(backend, "/predict", predict(f"{studio.address}/data/upload/7/a.png"))
    assert status == 200
    status, _ = post(backend, "/predict", predict("s3://bucket/a.png"))
    assert status == 200
    assert studio.asked[-1][0] == "/tasks/10/presign/?fileuri=s3%3A%2F%2Fbucket%2Fa.png"
    assert bucket.asked == [("/bucket/a.png", None)]  # the token stays with Label Studio
    inline = f"data:image/png;base64,{base64.b64encode(png(SCENE)).decode()}"
    assert post(backend, "/predict", predict(inline))[0] == 200
    wider = LabelStudio(tiny, studio.address, KEY, [bucket.address])
    assert wider.predict(predict(f"{bucket.address}/a.png"))["results"][0]["result"]
    assert bucket.asked[-1] == ("/a.png", None)
    with pytest.raises(Exception, match="LABEL_STUDIO_API_KEY"):
        LabelStudio(tiny, studio.address).predict(predict("/data/upload/7/a.png"))


def test_one_bad_picture_does_not_spoil_the_others(backend):
    status, said = post(backend, "/predict", predict("/data/upload/7/a.png", "/data/upload/7/b.png"))
    assert status == 200
    assert said["results"][0]["result"]
    assert said["results"][1]["result"] == []
    assert "no picture" in said["results"][1]["error"]
    assert post(backend, "/predict", predict())[1]["results"] == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("<View>", "no XML"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><View/>", "no XML"),
        ("<View><Text name='t' value='$t'/><Labels name='l' toName='t'/></View>", "has none of BrushLabels"),
        (BRUSH.replace('toName="photo"', 'toName="other"'), "has none of BrushLabels"),
        (BRUSH.replace('<Label value="cup"/>', '<Label value="horse "/>'), "twice"),
    ],
    ids=["cut", "entities", "text", "elsewhere", "twice"],
)
def test_interfaces_that_cannot_be_used(backend, config, message):
    status, said = post(backend, "/setup", setup(config))
    assert (status, message in said["error"]) == (400, True), said
    status, said = post(backend, "/predict", predict("/data/upload/7/a.png", config=config))
    assert (status, message in said["error"]) == (400, True), said


def test_requests_that_cannot_be_meant(backend):
    for body in ([], {"tasks": "x", "label_config": BRUSH}, {"tasks": [3], "label_config": BRUSH}):
        assert post(backend, "/predict", body)[0] == 400
    assert (
        post(backend, "/predict", predict(), kind="text/plain")[0] == 415
    )  # what another site's form could send
    assert backend.send("POST", "/predict", b"{", content_type="application/json")[0] == 400


def test_without_the_option_there_is_no_backend():
    with serving(server()) as (address, _):
        page = Visitor(address).open()
        assert page.upload(png(noise()))[0] == 200
        assert page.send("GET", "/health")[0] == 404
        assert page.send("POST", "/predict", b"{}", content_type="application/json")[0] == 404
