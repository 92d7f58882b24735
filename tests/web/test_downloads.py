"""What is taken home is what was shown."""

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from denseclip.data.coco_entries import read_coco
from denseclip.web.request import Limits
from denseclip.web.session import Session
from denseclip.web.views import coco_json, jpeg, picture_png, png
from web_support import noise, question, shared


@pytest.fixture(params=[{}, {"background": "sky", "refine": "pd=0.1"}, {"threshold": 0.5}], ids=str)
def answer(request):
    session = Session(shared(), Limits())
    session.show("noise.png", noise())
    return session.ask(question("cat, dog|hound, grass, never", **request.param))


def test_mask_png(answer):
    mask = Image.open(BytesIO(png(answer.result.indexed())))
    assert mask.mode == "P"
    assert (np.asarray(mask) == answer.result.mask).all()


def test_many_classes_need_16_bits():
    session = Session(shared(), Limits())
    session.show("noise.png", noise())
    answer = session.ask(question(", ".join(f"thing {i}" for i in range(300))))
    mask = Image.open(BytesIO(png(answer.result.indexed())))
    assert (np.asarray(mask) == answer.result.mask).all()


def test_coco_gives_the_mask_to_others(answer):
    runs = pytest.importorskip("pycocotools.mask")
    coco = json.loads(coco_json(answer))
    result = answer.result
    names = {category["id"]: category["name"] for category in coco["categories"]}
    assert list(names.values()) == [name for name in result.classes if name != "background"]
    assert list(names) == list(range(1, len(names) + 1))
    rebuilt = np.full(result.mask.shape, 0 if result.has_background else -1)
    for annotation in coco["annotations"]:
        where = runs.decode(annotation["segmentation"]).astype(bool)
        assert where.sum() == annotation["area"]
        rebuilt[where] = result.classes.index(names[annotation["category_id"]])
    assert (rebuilt == result.mask).all()


def test_coco_is_read_back_by_our_data_sets(answer, tmp_path):
    pytest.importorskip("pycocotools")
    (tmp_path / "coco.json").write_bytes(coco_json(answer))
    background = "background" if answer.result.has_background else None
    names, entries, _ = read_coco(tmp_path / "coco.json", tmp_path, background)
    assert tuple(names) == answer.result.classes
    assert (entries[0].mask.read(answer.result.mask.shape) == answer.result.mask).all()
    assert entries[0].image == tmp_path / "noise.png"


def test_pictures(answer):
    assert (np.asarray(Image.open(BytesIO(picture_png(answer.picture)))) == answer.picture.image).all()
    assert Image.open(BytesIO(jpeg(answer.picture.image))).size == (60, 40)
