"""`denseclip segment` and `denseclip detect` with a detector find the same."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cli_support import run
from denseclip.detection.predict import load_detector
from detector_support import write_detector

SCHEMA = json.loads((Path(__file__).parent / "result.schema.json").read_text())
NAMES = ("cat", "red car")


@pytest.fixture(scope="module", params=["maskrcnn", "retinanet"])
def checkpoint(request, tmp_path_factory):
    return write_detector(tmp_path_factory.mktemp(request.param), request.param, NAMES)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return path


def test_segment_paints_what_detect_finds(capsys, checkpoint, picture, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    found = load_detector(checkpoint, torch.device("cpu")).detect(np.asarray(Image.open(picture)))
    threshold = float(np.median(found.scores)) - 1e-4
    told = {}
    for command in ("segment", "detect"):
        options = ("-m", checkpoint, "--threshold", threshold, "-o", tmp_path / command)
        ran = run(capsys, command, picture, *options, "--json")
        assert ran.code == 0, ran.err
        told[command] = json.loads(ran.out)
        jsonschema.validate(told[command], SCHEMA)
        assert all(Path(file).is_file() for file in told[command]["files"])
    things = json.loads((tmp_path / "detect" / "detections.json").read_text())
    kept = {NAMES[thing["category_id"] - 1] for thing in things}
    mask = np.asarray(Image.open(tmp_path / "segment" / "a.png"))
    painted = {told["segment"]["classes"][value] for value in np.unique(mask)} - {"background"}
    assert painted and painted <= kept and len(things) > 2
    assert sum(told["segment"]["areas"].values()) == pytest.approx(1, abs=1e-4)
    assert told["segment"]["classes"] == ["background", *told["detect"]["classes"]]


def test_words_are_the_detectors_own(capsys, checkpoint, picture, tmp_path):
    ran = run(capsys, "segment", picture, "-m", checkpoint, "-c", "dog", "-o", tmp_path / "out")
    assert ran.code == 2 and ran.err.count("\n") == 1 and not (tmp_path / "out").exists()
