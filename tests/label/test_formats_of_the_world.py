"""'background' anywhere among the words, pictures that are stored turned, and names that no address can have."""

import io
import json
import tarfile
import zipfile
from urllib.parse import unquote
from xml.etree import ElementTree as Xml

import numpy as np
import pytest
from PIL import Image

from denseclip.label.labelled import Labels
from denseclip.web.request import Limits
from denseclip.web.session import Session
from denseclip.web.views import coco_json
from label_support import Stub, blobs, label, write_pictures
from web_support import noise, question, shared

WORDS = ["background, sky, car", "sky, background, car", "sky, car, Background"]


@pytest.mark.parametrize("words", WORDS)
def test_background_anywhere(tmp_path, words):
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO

    names = tuple(words.split(", "))
    write_pictures(tmp_path / "in", 3)
    label(tmp_path / "in", tmp_path / "out", Stub(names))
    out = tmp_path / "out"
    assert list(json.loads((out / "classes.json").read_text()).values()) == list(names)
    lines = (out / "voc" / "labelmap.txt").read_text().splitlines()[1:]
    assert [line.split(":")[0] for line in lines] == ["background", "sky", "car"]
    with zipfile.ZipFile(out / "cvat.zip") as archive:
        assert archive.read("labelmap.txt").decode().splitlines()[1:] == lines
    assert 'names:\n  0: "sky"\n  1: "car"\n' in (out / "yolo" / "data.yaml").read_text()
    interface = Xml.parse(out / "label-studio.xml").getroot()
    assert [one.get("value") for one in interface.iter("Label")] == ["sky", "car"]
    coco = COCO(str(out / "coco.json"))
    assert [(c["id"], c["name"]) for c in coco.dataset["categories"]] == [(1, "sky"), (2, "car")]
    for image in coco.imgs.values():
        stem = image["file_name"].removesuffix(".png")
        mask = np.asarray(Image.open(out / "masks" / f"{stem}.png"))  # ids of classes.json
        voc = np.asarray(Image.open(out / "voc" / "SegmentationClass" / f"{stem}.png"))
        rebuilt = np.zeros_like(mask)
        for annotation in coco.imgToAnns[image["id"]]:
            rebuilt[coco.annToMask(annotation) > 0] = annotation["category_id"]
        for index, name in enumerate(names):
            number = {"sky": 1, "car": 2}.get(name, 0)
            assert (voc[mask == index] == number).all() and (rebuilt[mask == index] == number).all()
    assert set(np.unique(mask)) == {0, 1, 2}


@pytest.mark.parametrize("words", WORDS)
def test_the_page_and_the_command_number_categories_alike(words):
    pytest.importorskip("pycocotools")
    session = Session(shared(), Limits())
    session.show("noise.png", noise())
    answer = session.ask(question(words))
    coco = json.loads(coco_json(answer))
    labels = Labels(answer.result.classes)
    assert [c["name"] for c in coco["categories"]] == list(labels.things) == ["sky", "car"]
    assert [c["id"] for c in coco["categories"]] == [1, 2]


def turned(path, orientation):
    """A picture of 24 x 40 as it is looked at, stored by an EXIF orientation, and its upright pixels."""
    upright = blobs(np.random.default_rng(orientation), 24, 40)
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    picture = Image.fromarray(upright)
    exif = Image.Exif()
    if orientation > 1:
        picture, exif[0x0112] = picture.transpose(back[orientation]), orientation
    path.parent.mkdir(exist_ok=True, parents=True)
    picture.save(path, exif=exif, **({"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {}))
    return upright


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_voc_and_yolo_have_upright_pictures_and_their_names(tmp_path, suffix, orientation):
    path = tmp_path / "in" / f"a{suffix}"
    upright = turned(path, orientation)
    label(tmp_path / "in", tmp_path / "out", formats=("voc", "yolo"))
    root = Xml.parse(tmp_path / "out" / "voc" / "Annotations" / "a.xml").getroot()
    name = root.findtext("filename")
    for folder in (tmp_path / "out" / "voc" / "JPEGImages", tmp_path / "out" / "yolo" / "images"):
        assert [one.name for one in folder.iterdir()] == [name]
        with Image.open(folder / name) as placed:
            assert placed.getexif().get(0x0112, 1) == 1
            assert (
                placed.size == (40, 24) == tuple(int(root.findtext(f"size/{k}")) for k in ("width", "height"))
            )
            if suffix == ".png":
                np.testing.assert_array_equal(np.asarray(placed), upright)
    assert Image.open(tmp_path / "out" / "voc" / "SegmentationClass" / "a.png").size == (40, 24)
    if orientation == 1:
        assert (tmp_path / "out" / "voc" / "JPEGImages" / name).read_bytes() == path.read_bytes()


def test_turned_pictures_in_a_shard(tmp_path):
    turned(tmp_path / "a.jpg", 6)
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        content = (tmp_path / "a.jpg").read_bytes()
        info = tarfile.TarInfo("a.jpg")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    label(tmp_path / "in.tar", tmp_path / "out", formats=("voc",))
    assert Image.open(tmp_path / "out" / "voc" / "JPEGImages" / "in" / "a.jpg").size == (40, 24)


def test_addresses_of_label_studio_are_percent_encoded(tmp_path):
    names = ("a b.png", "100%.png", "c#1.png", "d?e&f=g+h.png", "gräs/猫.png")
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(blobs(np.random.default_rng(0), 20, 20)).save(tmp_path / "in" / name)
    label(tmp_path / "in", tmp_path / "out", formats=("label-studio",))
    tasks = json.loads((tmp_path / "out" / "label-studio.json").read_text())
    found = [task["data"]["image"].removeprefix("/data/local-files/?d=") for task in tasks]
    assert sorted(map(unquote, found)) == sorted(names)
    assert not any(letter in address for address in found for letter in " #?&+=") and all(
        a.isascii() for a in found
    )
