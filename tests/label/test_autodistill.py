"""The base model for autodistill, on a stand-in of the two classes that it uses (or the package, where it is)."""

import importlib
import importlib.util
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from denseclip.data.stickers.scenes import render
from denseclip.errors import UserError

STAND_IN = """
from dataclasses import dataclass


class CaptionOntology:
    def __init__(self, ontology):
        self.promptMap = list(ontology.items())

    def classes(self):
        return [name for _, name in self.promptMap]


@dataclass
class DetectionBaseModel:
    ontology: CaptionOntology
"""


@pytest.fixture
def kit(tmp_path, monkeypatch):
    """denseclip.autodistill, and autodistill.detection."""
    pytest.importorskip("supervision")
    if importlib.util.find_spec("autodistill") is None:
        home = tmp_path / "packages" / "autodistill"
        home.mkdir(parents=True)
        (home / "__init__.py").write_text("")
        (home / "detection.py").write_text(STAND_IN)
        monkeypatch.syspath_prepend(str(home.parent))
    yield importlib.import_module("denseclip.autodistill"), importlib.import_module("autodistill.detection")
    for name in [name for name in sys.modules if name.split(".")[0] == "autodistill"]:
        del sys.modules[name]
    sys.modules.pop("denseclip.autodistill", None)


@pytest.fixture(scope="module")
def scene():
    return render("val", 1, side=320)


def test_regions_of_the_captions(kit, scene, tmp_path):
    ours, theirs = kit
    first, second = scene.names[:2]
    base = ours.DenseCLIP(theirs.CaptionOntology({f"some {first}": "ground", second: "thing"}), device="cpu")
    path = tmp_path / "scene.png"
    Image.fromarray(scene.image).save(path)
    found = base.predict(str(path))
    assert {base.ontology.classes()[k] for k in found.class_id} == {"ground", "thing"}
    assert (found.confidence > 0).all() and (found.confidence <= 1).all()
    assert (found.mask.sum((1, 2)) >= ours.MIN_AREA).all()
    for box, mask in zip(found.xyxy, found.mask, strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    truth = scene.labels == 0
    mine = found.mask[found.class_id == 0].any(0)
    assert (truth & mine).sum() / (truth | mine).sum() > 0.7


def test_arrays_are_read_as_opencv_reads_files(kit, scene, tmp_path):
    ours, theirs = kit
    path = tmp_path / "scene.png"
    Image.fromarray(scene.image).save(path)
    base = ours.DenseCLIP(theirs.CaptionOntology({name: name for name in scene.names}), device="cpu")
    for other in (cv2.imread(str(path)), Image.open(path)):
        assert np.array_equal(base.predict(other).mask, base.predict(str(path)).mask)


def test_two_captions_of_a_class_and_a_change_of_ontology(kit, scene):
    ours, theirs = kit
    picture = Image.fromarray(scene.image)
    both = theirs.CaptionOntology(dict.fromkeys(scene.names, "anything"))
    base = ours.DenseCLIP(both, device="cpu", background="none")
    assert base.predict(picture).mask.all()
    base.set_ontology(theirs.CaptionOntology({scene.names[0]: "other"}))
    assert {base.ontology.classes()[k] for k in base.predict(picture).class_id} == {"other"}


def test_nothing_there_is_no_detection(kit):
    ours, theirs = kit
    base = ours.DenseCLIP(theirs.CaptionOntology({"giraffe": "giraffe"}), device="cpu")
    assert len(base.predict(Image.new("RGB", (64, 64), (90, 160, 90)))) == 0


def test_mistakes(kit):
    ours, theirs = kit
    with pytest.raises(UserError, match="min_area 0"):
        ours.DenseCLIP(theirs.CaptionOntology({"a": "a"}), min_area=0)


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("denseclip.errors.find_spec", lambda name: None)
    sys.modules.pop("denseclip.autodistill", None)
    with pytest.raises(UserError, match="pip install autodistill"):
        importlib.import_module("denseclip.autodistill")
