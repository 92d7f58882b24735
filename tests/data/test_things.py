"""Boxes and masks of things: COCO files good and bad, sticker scenes, augmentation."""

import json

import numpy as np
import pytest
from PIL import Image

from denseclip.data.coco_entries import read_instances
from denseclip.data.instances import (
    BoxAugmentation,
    BoxView,
    InstanceSample,
    Targets,
    cropped,
    decode,
    encode,
    mirrored,
    resized,
)
from denseclip.data.open_things import open_things
from denseclip.data.transforms import ResizeRule
from denseclip.errors import UserError

pytest.importorskip("pycocotools")

ANNOTATIONS = [
    {"id": 1, "image_id": 7, "category_id": 5, "bbox": [10, 20, 30, 10], "area": 300, "iscrowd": 0,
     "segmentation": [[10, 20, 40, 20, 40, 30, 10, 30]]},
    {"id": 2, "image_id": 7, "category_id": 2, "bbox": [-4, 0, 12, 90], "area": 1, "iscrowd": 1,
     "segmentation": {"size": [60, 80], "counts": [0, 60 * 8, 60 * 72]}},
]  # fmt: skip


def write(folder, *annotations, images=((7, "a.png"), (8, "b.png")), present=("a.png", "b.png"), **changes):
    """A data.json with two pictures of 80 x 60; annotations: fields that differ from the first."""
    (folder / "images").mkdir(exist_ok=True)
    for name in present:
        Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save(folder / "images" / name)
    content = {
        "images": [{"id": k, "file_name": n, "height": 60, "width": 80} for k, n in images],
        "categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": "bus"}],
        "annotations": [{**ANNOTATIONS[0], **one} for one in annotations] or ANNOTATIONS,
    }
    (folder / "instances.json").write_text(json.dumps(content | changes))
    (folder / "data.json").write_text(json.dumps({"images": "images", "coco": "instances.json"}))
    return folder


def test_own_data(tmp_path):
    data = open_things(write(tmp_path))
    assert (data.classes, data.categories, len(data)) == (("bus", "cat"), (2, 5), 2)
    sample = data[0]
    assert (sample.image_id, sample.number, sample.image.shape) == ("a", 7, (60, 80, 3))
    truth = sample.truth
    assert truth.boxes.tolist() == [[10, 20, 40, 30], [0, 0, 8, 60]]  # cut at the edges
    assert truth.labels.tolist() == [1, 0] and truth.crowd.tolist() == [False, True]
    assert decode(truth.runs[0])[20:30, 10:40].all() and decode(truth.runs[0]).sum() == 300
    assert decode(truth.runs[1])[:, :8].all()
    assert truth.learnable().labels.tolist() == [1]
    assert len(data[1].truth.boxes) == 0


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"bbox": [3, 4, 0, 5]}, r"annotation 1 of a\.png has a box without area, \[3, 4, 0, 5\]"),
        ({"bbox": [3, 4, 5, -1]}, "annotation 1 of a.png has a box without area"),
        ({"bbox": [90, 4, 5, 5]}, "a box outside of its image"),
        ({"bbox": [1, 2, 3]}, r"has the bbox \[1, 2, 3\]: write \[x, y, width, height\]"),
        ({"bbox": [1, 2, 3, float("nan")]}, "has the bbox"),
        ({"bbox": None, "segmentation": []}, "has neither bbox nor segmentation: remove it"),
        ({"category_id": 9}, "category_id 9, which is not declared"),
        ({"image_id": 9}, "image_id 9, which is not declared"),
    ],
)
def test_annotations_that_cannot_be_used(tmp_path, annotation, message):
    with pytest.raises(UserError, match=message):
        open_things(write(tmp_path, annotation))


def test_published_files_may_have_boxes_without_area(tmp_path):
    write(tmp_path, {}, {"id": 3, "bbox": [3, 4, 0, 5]})
    _, _, entries = read_instances(tmp_path / "instances.json", tmp_path / "images", lenient=True)
    assert len(entries[0].read().truth.boxes) == 1


def test_files_that_cannot_be_used(tmp_path):
    write(tmp_path)
    file = tmp_path / "instances.json"
    whole = file.read_text()
    for text, message in (
        (whole[: len(whole) // 2], "is not JSON"),
        ("[]", "is not a COCO file but a list"),
        ('{"images": []}', "it has no 'categories'"),
        (json.dumps({"images": [{"id": 1}], "annotations": [], "categories": []}), "file_name None"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message) as error:
            open_things(tmp_path)
        assert "\n" not in str(error.value)
    file.unlink()
    with pytest.raises(UserError, match="no COCO file"):
        open_things(tmp_path)


def test_images_that_cannot_be_used(tmp_path):
    data = open_things(write(tmp_path, present=("a.png",)))
    with pytest.raises(UserError, match=r"there is no picture .*b\.png"):
        data[1]
    Image.fromarray(np.zeros((60, 81, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    with pytest.raises(UserError, match=r"a\.png is 81x60 .* 80x60: correct its entry"):
        data[0]


def test_masks_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match=r"annotation 1 of a\.png: a polygon has 3 numbers"):
        open_things(write(tmp_path, {"segmentation": [[1, 2, 3]]}))
    data = open_things(write(tmp_path, {"segmentation": None}))
    augment = BoxAugmentation(ResizeRule("none"), masks=True)
    with pytest.raises(UserError, match="has no mask; give its segmentation, or train a retinanet"):
        augment(data[0], np.random.default_rng(0))


def test_names_that_are_no_data_for_detection(tmp_path):
    for name, message in (
        ("voc20", "voc20 has no boxes"),
        ("nonsense", "unknown data set 'nonsense': choose coco"),
        ("coco", "where is coco"),
    ):
        with pytest.raises(UserError, match=message):
            open_things(name)
    with pytest.raises(UserError, match=r"instances_val2017\.json: fetch"):
        open_things("coco", tmp_path)


def test_published_layout(tmp_path):
    folder = tmp_path / "coco"
    folder.mkdir()
    write(folder)
    (folder / "images").rename(folder / "val2017")
    (folder / "annotations").mkdir()
    (folder / "instances.json").rename(folder / "annotations" / "instances_val2017.json")
    assert len(open_things("coco", tmp_path)) == 2
    assert [e.image_id for e in open_things("coco", folder, "val", learn=True).entries] == ["a"]


def test_sticker_scenes():
    data = open_things("stickers20", side=96)
    assert len(data.classes) == 20 and data.split == "val"
    for sample in data.first(4):
        truth = sample.truth
        assert sample.image.shape == (96, 96, 3) and len(truth.boxes)
        for box, area, runs in zip(truth.boxes.astype(int), truth.areas, truth.runs, strict=True):
            mask = decode(runs)
            rows, columns = np.nonzero(mask)
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box.tolist()
            assert mask.sum() == area


def view(masks=True):
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:20, 30:50] = 200
    mask = (image[..., 0] > 0).astype(np.uint8)[None]
    box = np.array([[30, 10, 50, 20]], np.float32)
    return BoxView(image, box, np.array([3]), mask if masks else None)


def box_of(mask):
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_boxes_and_masks_move_with_the_image():
    for one in (resized(view(), (80, 90)), cropped(view(), (slice(5, 30), slice(20, 60))), mirrored(view())):
        assert one.boxes[0].tolist() == pytest.approx(box_of(one.masks[0]), abs=1)
        assert one.boxes[0].tolist() == pytest.approx(box_of(one.image[..., 0] > 100), abs=1)
        assert one.masks.shape[1:] == one.image.shape[:2]
    assert mirrored(mirrored(view())).boxes.tolist() == view().boxes.tolist()


def test_what_a_crop_leaves():
    half = cropped(view(), (slice(0, 15), slice(0, 40)))
    assert half.boxes.tolist() == [[30, 10, 40, 15]] and half.masks.sum() == 50
    gone = cropped(view(), (slice(20, 40), slice(0, 60)))
    assert len(gone.boxes) == len(gone.labels) == len(gone.masks) == 0
    thin = cropped(view(masks=False), (slice(0, 40), slice(0, 31)))
    assert thin.boxes.tolist() == [[30, 10, 31, 20]]


def test_augmentation_is_made_of_these():
    mask = view().masks[0]
    truth = Targets.of([((30, 10, 50, 20), 3, 200.0, False, encode(mask))])
    sample = InstanceSample("a", 1, view().image, truth)
    rule = ResizeRule.parse("short:80")
    augment = BoxAugmentation(rule, (0.8, 1.2), (64, 64), 0.5, colors=True, masks=True)
    seen = set()
    for seed in range(12):
        one, again = (augment(sample, np.random.default_rng(seed)) for _ in range(2))
        assert np.array_equal(one.image, again.image)
        assert one.image.shape[:2] == one.masks.shape[1:]
        assert max(one.image.shape[:2]) <= 64
        if len(one.boxes):
            assert one.boxes[0].tolist() == pytest.approx(box_of(one.masks[0]), abs=1.5)
        seen.add(one.image.shape[:2])
    assert (
        len(seen) == 1 and len({augment(sample, np.random.default_rng(s)).boxes[0, 0] for s in range(4)}) > 1
    )
