"""Detectors label things: each keeps its identity, its whole mask and its score."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cli_support import run
from denseclip.detection.predict import DetectionResult, load_detector
from denseclip.errors import UserError
from denseclip.label.detected import InstanceLabeler
from denseclip.label.labelled import Rules
from detector_support import write_detector
from label_support import label, tree, write_pictures

pycoco = pytest.importorskip("pycocotools.coco")
from denseclip.data.instances import encode  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
NAMES = ("cat", "red car")
SIZE = (40, 60)
FOUND = [(0, 0.9), (1, 0.8), (0, 0.6), (1, 0.3), (0, 0.2)]  # class, score
VOID = 255


def planes():
    """A ring; two bars, one across it; a spot that the ring hides; a corner; something empty."""
    masks = np.zeros((len(FOUND), *SIZE), bool)
    masks[0, 5:30, 5:30] = True
    masks[0, 12:18, 12:18] = False
    masks[1, 20:24, 20:50] = masks[1, 32:36, 40:55] = True
    masks[2, 7:10, 7:10] = True
    masks[3, 30:40, 30:60] = True
    return masks


class Drawn:
    """A detector that always finds the above."""

    name, classes, fingerprint, resize = "drawn", NAMES, "0" * 64, "none"
    device = SimpleNamespace(type="cpu")

    def __init__(self, *, masks=True):
        self.masks = masks

    def detect(self, image):
        labels, scores = zip(*FOUND, strict=True)
        boxes = np.float32(
            [[4.7, 5.2, 30.4, 29.9], [20, 20, 55, 36], [7, 7, 10, 10], [30, 30, 60, 40], [0] * 4]
        )
        runs = tuple(encode(mask) for mask in planes()) if self.masks else None
        return DetectionResult(image, boxes, np.float32(scores), np.int64(labels), NAMES, runs)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(np.full((*SIZE, 3), 99, np.uint8)).save(tmp_path / "in" / "a.png")
    return tmp_path / "in"


def annotations(path):
    """(category, score, mask) of each, and pycocotools' view of them."""
    data = pycoco.COCO(str(path))
    found = [
        (one["category_id"], one["score"], data.annToMask(one).astype(bool)) for one in data.anns.values()
    ]
    return found, data


@pytest.mark.parametrize("file", ["coco.json", "coco-polygons.json"])
def test_coco_holds_each_thing_whole(source, tmp_path, file):
    label(source, tmp_path / "out", InstanceLabeler(Drawn()), rules=Rules(confidence="regions"))
    found, data = annotations(tmp_path / "out" / file)
    assert {k: one["name"] for k, one in data.cats.items()} == {1: "cat", 2: "red car"}
    assert [(k, score) for k, score, _ in found] == [(1, 0.9), (2, 0.8), (1, 0.6)]
    for (_, _, mask), plane, one in zip(found, planes(), data.anns.values(), strict=False):
        assert (mask == plane).all()
        x, y, w, h = one["bbox"]
        assert plane[y : y + h, x : x + w].sum() == one["area"] == plane.sum()


def test_the_best_lies_on_top_in_masks(source, tmp_path):
    out, masks = tmp_path / "out", planes()
    label(source, out, InstanceLabeler(Drawn()), overlays=True)
    expected = np.where(masks[0], 1, np.where(masks[1], 2, 0))
    for path in ("masks/a.png", "voc/SegmentationClass/a.png"):
        assert (np.asarray(Image.open(out / path)) == expected).all()
    objects = np.asarray(Image.open(out / "voc" / "SegmentationObject" / "a.png"))
    assert ((objects == 0) == (expected == 0)).all()
    assert len(np.unique(objects[masks[0]])) == len(np.unique(objects[masks[1] & ~masks[0]])) == 1
    assert json.loads((out / "classes.json").read_text()) == {"0": "background", "1": "cat", "2": "red car"}
    assert (out / "overlays" / "a.jpg").exists()


def test_a_line_of_yolo_is_a_thing(source, tmp_path):
    label(source, tmp_path / "out", InstanceLabeler(Drawn()))
    lines = (tmp_path / "out" / "yolo" / "labels" / "a.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "0"]
    for line, plane in zip(lines, planes(), strict=False):
        points = np.array(line.split()[1:], float).reshape(-1, 2) * SIZE[::-1]
        filled = np.zeros(SIZE, np.uint8)
        cv2.fillPoly(filled, [points.astype(np.int32)], 1)
        assert filled[plane].all()
        joins = (filled > 0) & ~plane
        parts = cv2.connectedComponents(plane.astype(np.uint8))[0] - 1
        assert joins.any() == (parts > 1)
        assert not cv2.erode(joins.astype(np.uint8), np.ones((2, 2))).any(), "a line of one pixel"


def test_label_studio_gets_a_stroke_and_a_score_for_each(source, tmp_path):
    brush = pytest.importorskip("label_studio_converter.brush")
    label(source, tmp_path / "out", InstanceLabeler(Drawn()))
    (task,) = json.loads((tmp_path / "out" / "label-studio.json").read_text())
    results = task["predictions"][0]["result"]
    assert [one["score"] for one in results] == [0.9, 0.8, 0.6]
    for one, plane in zip(results, planes(), strict=False):
        assert ((brush.decode_rle(one["value"]["rle"]).reshape(*SIZE, 4)[..., 3] > 0) == plane).all()


def test_rules(source, tmp_path):
    masks = planes()
    rules = Rules(min_area=20, min_confidence=0.75, confidence="pixels")
    label(source, tmp_path / "out", InstanceLabeler(Drawn()), rules=rules)
    best = np.where(masks[0], 0.9, np.where(masks[1], 0.8, np.where(masks[3], 0.7, 1.0)))
    sure = np.asarray(Image.open(tmp_path / "out" / "confidence" / "a.png"))
    assert np.allclose(sure / 65535, best, atol=1e-4), "background is as sure as nothing else is there"
    expected = np.where(masks[0], 1, np.where(masks[1], 2, np.where(masks[3], VOID, 0)))
    assert (np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png")) == expected).all()
    assert [score for _, score, _ in annotations(tmp_path / "out" / "coco.json")[0]] == [0.9, 0.8]
    label(source, tmp_path / "unsure", InstanceLabeler(Drawn(), 0.25), rules=Rules(min_confidence=0.5))
    assert json.loads((tmp_path / "unsure" / "summary.json").read_text())["regions"] == 3
    mask = np.asarray(Image.open(tmp_path / "unsure" / "masks" / "a.png"))
    assert ((mask == VOID) == (masks[3] & ~masks[1])).all()


def test_boxes_where_a_format_has_boxes(source, tmp_path):
    boxes = InstanceLabeler(Drawn(masks=False))
    label(source, tmp_path / "out", boxes, formats=("coco", "yolo"), rules=Rules(confidence="regions"))
    found, data = annotations(tmp_path / "out" / "coco.json")
    assert [one["bbox"] for one in data.anns.values()] == [[5, 5, 25, 25], [20, 20, 35, 16], [7, 7, 3, 3]]
    assert all(mask.sum() == one["area"] for (_, _, mask), one in zip(found, data.anns.values(), strict=True))
    with pytest.raises(UserError, match=r"format png needs masks.*coco, coco-polygons, yolo") as caught:
        label(source, tmp_path / "other", boxes, formats=("coco", "png"))
    assert "\n" not in str(caught.value) and not (tmp_path / "other").exists()


def test_nothing_found_is_background(source, tmp_path):
    label(source, tmp_path / "out", InstanceLabeler(Drawn(), 1.0))
    assert not np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png")).any()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["regions"] == 0
    with pytest.raises(UserError, match="threshold 3 is no score"):
        InstanceLabeler(Drawn(), 3)


@pytest.fixture(scope="module", params=["maskrcnn", "retinanet"])
def checkpoint(request, tmp_path_factory):
    return request.param, write_detector(tmp_path_factory.mktemp(request.param), request.param, NAMES)


def test_the_command(checkpoint, tmp_path, capsys):
    kind, path = checkpoint
    source = write_pictures(tmp_path / "in", 3)
    detector = load_detector(path, torch.device("cpu"))
    expected = detector.detect(np.asarray(Image.open(source / "p000.png")))
    threshold = float(np.median(expected.scores)) - 1e-4
    expected = expected.above(threshold)
    assert len(expected) > 2
    forms = "coco,png,yolo,voc,label-studio" if kind == "maskrcnn" else "coco,yolo"
    command = ("label", source, "-m", path, "--threshold", threshold, "-f", forms, "--confidence", "regions")
    ran = run(capsys, *command, "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    found, data = annotations(tmp_path / "out" / "coco.json")
    first = [one["id"] - 1 for one in data.imgToAnns[1]]
    if kind == "maskrcnn":
        masks = [expected.mask(i) for i in range(len(expected))]
        kept = [i for i, mask in enumerate(masks) if mask.any()]
        assert all((found[n][2] == masks[i]).all() for n, i in zip(first, kept, strict=True))
    else:
        kept = [i for i, box in enumerate(np.rint(expected.boxes)) if box[2] > box[0] and box[3] > box[1]]
    assert [found[n][0] for n in first] == [int(expected.labels[i]) + 1 for i in kept]
    assert [found[n][1] for n in first] == pytest.approx([float(expected.scores[i]) for i in kept], abs=1e-4)
    other = run(capsys, *command[:-2], "-o", tmp_path / "out2", "--preset", "sclip")
    assert other.code == 2 and "--preset goes with models that segment" in other.err
    assert other.err.count("\n") == 1


def test_stopped_and_gone_on_with(checkpoint, tmp_path):
    class StopError(Exception):
        pass

    def stop(done, skipped, total):
        if done == 2:
            raise StopError

    kind, path = checkpoint
    source, labeler = (
        write_pictures(tmp_path / "in", 4),
        InstanceLabeler(load_detector(path, torch.device("cpu")), 0.1),
    )
    options = {} if kind == "maskrcnn" else {"formats": ("coco", "yolo")}
    label(source, tmp_path / "whole", labeler, **options)
    with pytest.raises(StopError):
        label(source, tmp_path / "parts", labeler, progress=stop, **options)
    label(source, tmp_path / "parts", labeler, **options)
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")
    with pytest.raises(UserError, match="results made with other threshold"):
        label(source, tmp_path / "parts", InstanceLabeler(labeler.detector, 0.2), **options)


@pytest.mark.parametrize(
    "option", [("--classes", "cat"), ("--flip",), ("--precision", "bf16"), ("--refine", "pd")]
)
def test_options_of_words_are_refused(checkpoint, source, tmp_path, capsys, option):
    ran = run(capsys, "label", source, "-m", checkpoint[1], "-o", tmp_path / "out", *option)
    assert ran.code == 2 and f"{option[0]} goes with models that segment" in ran.err
    assert ran.err.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["maskrcnn"], indirect=True)
def test_ray_makes_the_same_files(checkpoint, tmp_path, capsys):
    pytest.importorskip("ray")
    source, path = write_pictures(tmp_path / "in", 5), checkpoint[1]
    for engine in ("local", "ray"):
        command = (
            "label",
            source,
            "-m",
            path,
            "-o",
            tmp_path / engine,
            "-f",
            "png,coco,voc",
            "--threshold",
            0.1,
        )
        ran = run(capsys, *command, "--engine", engine)
        assert ran.code == 0, ran.err
    assert tree(tmp_path / "local") == tree(tmp_path / "ray")
