"""Every format, read back by software that is not ours, to the same masks."""

import json
import zipfile
from xml.etree import ElementTree as Xml

import numpy as np
import pytest
from PIL import Image

from denseclip.data.coco_entries import read_coco
from denseclip.errors import UserError
from denseclip.label.formats import parse_formats
from denseclip.label.labelled import Rules
from denseclip.label.sources import list_items
from label_support import CLASSES, Stub, blobs, label, write_pictures

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
COUNT, VOID = 4, 255


def masks_of(source, stub=None):
    """{name: mask} as the stub sees it."""
    stub = stub or Stub()
    return {item.name: stub.segment(item.read()).mask for item in list_items(str(source))}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Pictures in one folder (as YOLO's and VOC's readers want it), labeled in all formats."""
    root = tmp_path_factory.mktemp("formats")
    write_pictures(root / "in", 2 * COUNT)
    for path in (root / "in" / "sub").iterdir():
        path.rename(root / "in" / f"q{path.name}")
    label(root / "in", root / "out", rules=Rules(confidence="regions"), overlays=True)
    return root / "in", root / "out"


def test_png(job):
    source, out = job
    for name, mask in masks_of(source).items():
        with Image.open(out / "masks" / f"{name}.png") as image:
            assert image.mode == "P"
            assert (np.asarray(image) == mask).all()
    assert json.loads((out / "classes.json").read_text()) == {str(k): n for k, n in enumerate(CLASSES)}


@pytest.mark.parametrize("file", ["coco.json", "coco-polygons.json"])
def test_coco_by_pycocotools(job, file):
    coco = pytest.importorskip("pycocotools.coco")
    source, out = job
    data = coco.COCO(str(out / file))
    assert [c["name"] for c in data.loadCats(data.getCatIds())] == list(CLASSES)
    truth = masks_of(source)
    assert len(data.imgs) == len(truth)
    for image in data.imgs.values():
        mask = np.full((image["height"], image["width"]), VOID)
        for annotation in data.imgToAnns[image["id"]]:
            region = data.annToMask(annotation).astype(bool)
            assert region.sum() == annotation["area"]
            assert (mask[region] == VOID).all(), "regions do not overlap"
            x, y, w, h = annotation["bbox"]
            assert region[y : y + h, x : x + w].sum() == annotation["area"]
            assert 0 <= annotation["score"] <= 1
            mask[region] = annotation["category_id"] - 1
        assert (mask == truth[image["file_name"].removesuffix(".png")]).all()


def test_coco_by_our_own_reader(job):
    pytest.importorskip("pycocotools")
    source, out = job
    names, entries, _ = read_coco(out / "coco.json", source, None)
    assert names == list(CLASSES)
    truth = masks_of(source)
    assert all(
        (entry.mask.read(truth[entry.image_id].shape) == truth[entry.image_id]).all() for entry in entries
    )


def painted(detections, size):
    mask = np.full(size, VOID)
    for region, label_id in zip(detections.mask, detections.class_id, strict=True):
        mask[region.astype(bool)] = label_id
    return mask


def test_coco_and_yolo_by_supervision(job):
    supervision = pytest.importorskip("supervision")
    source, out = job
    truth = masks_of(source)
    sets = [
        supervision.DetectionDataset.from_coco(str(source), str(out / "coco.json"), force_masks=True),
        supervision.DetectionDataset.from_yolo(
            str(out / "yolo" / "images"),
            str(out / "yolo" / "labels"),
            str(out / "yolo" / "data.yaml"),
            force_masks=True,
        ),
    ]
    for data in sets:
        assert tuple(data.classes) == CLASSES
        assert len(data) == len(truth)
        for path, _, detections in data:
            name = path.rpartition("/")[2].removesuffix(".png")
            assert (painted(detections, truth[name].shape) == truth[name]).all()


def test_voc_boxes_by_supervision(job):
    supervision = pytest.importorskip("supervision")
    _, out = job
    data = supervision.DetectionDataset.from_pascal_voc(
        str(out / "voc" / "JPEGImages"), str(out / "voc" / "Annotations")
    )
    assert set(data.classes) == set(CLASSES)
    assert (
        sum(len(detections) for _, _, detections in data)
        == json.loads((out / "summary.json").read_text())["regions"]
    )


def test_voc_by_torchvision(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name in "ab":
        Image.fromarray(blobs(rng, 60, 50)).save(tmp_path / "in" / f"{name}.jpg", quality=95)
    label(tmp_path / "in", tmp_path / "out", formats=("voc",))
    (tmp_path / "VOCdevkit").mkdir()
    (tmp_path / "out" / "voc").rename(tmp_path / "VOCdevkit" / "VOC2012")
    data = torchvision.datasets.VOCSegmentation(str(tmp_path), "2012", "train")
    truth = masks_of(tmp_path / "in")
    assert [
        (np.asarray(mask) == truth[name] + 1).all() for (_, mask), name in zip(data, "ab", strict=True)
    ] == [
        True,
        True,
    ]


@pytest.mark.parametrize("form", ["voc", "cvat"])
def test_voc_and_cvat_by_datumaro(job, tmp_path, form):
    datumaro = pytest.importorskip("datumaro")
    source, out = job
    folder = out / "voc"
    if form == "cvat":
        folder = tmp_path / "cvat"
        zipfile.ZipFile(out / "cvat.zip").extractall(folder)
    data = datumaro.Dataset.import_from(str(folder), "voc_segmentation")
    names = [label.name for label in data.categories()[datumaro.AnnotationType.label]]
    truth = masks_of(source)
    assert len(data) == len(truth)
    for item in data:
        mask = np.full(truth[item.id].shape, VOID)
        for annotation in item.annotations:
            if annotation.type == datumaro.AnnotationType.mask:
                mask[annotation.image.astype(bool)] = CLASSES.index(names[annotation.label])
        assert (mask == truth[item.id]).all()


def test_cvat_zip_has_the_parts_that_cvat_asks_for(job):
    source, out = job
    truth = masks_of(source)
    with zipfile.ZipFile(out / "cvat.zip") as archive:
        assert archive.testzip() is None
        lines = [line for line in archive.read("labelmap.txt").decode().splitlines() if line[0] != "#"]
        colors = {tuple(map(int, line.split(":")[1].split(","))): line.split(":")[0] for line in lines}
        assert archive.read("ImageSets/Segmentation/default.txt").decode().split() == list(truth)
        for name, mask in truth.items():
            with archive.open(f"SegmentationClass/{name}.png") as file:
                pixels = np.asarray(Image.open(file).convert("RGB"))
            seen = [[colors[tuple(pixel)] for pixel in row] for row in pixels.tolist()]
            assert (np.asarray(seen) == np.asarray(CLASSES)[mask]).all()
            with archive.open(f"SegmentationObject/{name}.png") as file:
                objects = np.asarray(Image.open(file))
            for number in np.unique(objects):
                assert len(np.unique(mask[objects == number])) == 1


def test_label_studio_by_its_converter(job):
    brush = pytest.importorskip("label_studio_converter.brush")
    source, out = job
    truth = masks_of(source)
    tasks = json.loads((out / "label-studio.json").read_text())
    labels = [node.get("value") for node in Xml.parse(out / "label-studio.xml").iter("Label")]
    assert labels == list(CLASSES)
    for task in tasks:
        name = task["data"]["image"].removeprefix("/data/local-files/?d=").removesuffix(".png")
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == "denseclip stub"
        mask = np.full(truth[name].shape, VOID)
        for result in prediction["result"]:
            assert 0 <= result["score"] <= 1
            assert (result["original_height"], result["original_width"]) == mask.shape
            pixels = brush.decode_rle(result["value"]["rle"]).reshape(*mask.shape, 4)
            mask[pixels[..., 3] > 0] = CLASSES.index(result["value"]["brushlabels"][0])
        assert (mask == truth[name]).all()


def test_the_background_is_no_annotation(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    write_pictures(tmp_path / "in", 1)
    stub = Stub(("cat", "dog"), background=True)
    label(tmp_path / "in", tmp_path / "out", stub, rules=Rules(min_area=4))
    (truth,) = masks_of(tmp_path / "in", stub).values()
    data = coco.COCO(str(tmp_path / "out" / "coco.json"))
    assert {c["id"]: c["name"] for c in data.cats.values()} == {1: "cat", 2: "dog"}
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "p000.png"))
    again = np.zeros_like(mask)
    for annotation in data.anns.values():
        assert annotation["area"] >= 4
        again[data.annToMask(annotation).astype(bool)] = annotation["category_id"]
    assert (again == mask).all()
    assert (mask != truth).any() and (truth[mask != truth] > 0).all() and (mask[mask != truth] == 0).all()
    assert (np.asarray(Image.open(tmp_path / "out" / "voc" / "SegmentationClass" / "p000.png")) == mask).all()


def test_uncertain_pixels_and_specks_become_void(tmp_path):
    write_pictures(tmp_path / "in", 1)
    label(tmp_path / "in", tmp_path / "out", rules=Rules(min_area=3, min_confidence=0.2, confidence="pixels"))
    image = np.asarray(Image.open(tmp_path / "in" / "p000.png"))
    sure = np.asarray(Image.open(tmp_path / "out" / "confidence" / "p000.png"))
    assert sure.dtype == np.uint16 and (sure == np.rint(image[..., 1] / 255 * 65535)).all()
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "p000.png"))
    assert (mask[image[..., 1] / 255 < 0.2] == VOID).all()
    assert (mask != VOID).any()
    for file in ("voc/SegmentationClass", "voc/SegmentationObject"):
        assert (
            (np.asarray(Image.open(tmp_path / "out" / file / "p000.png")) == VOID) == (mask == VOID)
        ).all()


def test_more_classes_than_a_byte_holds(tmp_path):
    many = tuple(f"class {k}" for k in range(300))
    (tmp_path / "in").mkdir()
    red = np.tile(np.arange(256, dtype=np.uint8), (20, 1))
    Image.fromarray(np.stack([red] * 3, -1)).save(tmp_path / "in" / "a.png")
    stub = Stub(many)
    stub.segment = lambda picture, confidence=False: _wide(Stub.segment(stub, picture), picture)
    label(tmp_path / "in", tmp_path / "out", stub, formats=("png", "coco", "cvat", "yolo"))
    expected = picture_ids(red)
    with Image.open(tmp_path / "out" / "masks" / "a.png") as image:
        assert image.mode.startswith("I;16")
        assert (np.asarray(image) == expected).all()
    with pytest.raises(UserError, match="voc holds 254 classes, not 300"):
        label(tmp_path / "in", tmp_path / "other", stub, formats=("voc",))
    assert not (tmp_path / "other").exists()


def picture_ids(red):
    return red.astype(np.int64) * 300 // 256


def _wide(result, picture):
    from dataclasses import replace

    return replace(result, mask=picture_ids(picture[..., 0]).astype(np.int32))


@pytest.mark.parametrize("text", ["", "pngs", "png,,cocoa", " , "])
def test_unknown_formats(text):
    with pytest.raises(
        UserError,
        match=r"choose one of png, coco, coco-polygons, yolo, voc, cvat, label-studio|did you mean (png|coco)\?",
    ):
        parse_formats(text)


def test_names_that_label_maps_cannot_hold(tmp_path):
    write_pictures(tmp_path / "in", 1)
    with pytest.raises(UserError, match="'a:b' cannot be in format voc"):
        label(tmp_path / "in", tmp_path / "out", Stub(("cat", "a:b")), formats=("voc",))
