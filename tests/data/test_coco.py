"""COCO polygons and run lengths against masks made by hand and by pycocotools."""

import json

import numpy as np
import pytest
from dataset_trees import SHAPE, image

from denseclip.data.opening import open_dataset
from denseclip.errors import UserError

coco_mask = pytest.importorskip("pycocotools.mask")
HEIGHT, WIDTH = SHAPE


def block(top, left, bottom, right):
    found = np.zeros(SHAPE, np.uint8)
    found[top:bottom, left:right] = 1
    return found


def polygon(top, left, bottom, right):
    return [left, top, right, top, right, bottom, left, bottom]


def runs(shape):
    """Uncompressed run lengths, column by column, zeros first."""
    flat = shape.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(SHAPE), "counts": counts if flat[0] == 0 else [0, *counts]}


def compressed(shape):
    packed = coco_mask.encode(np.asfortranarray(shape))
    return {"size": packed["size"], "counts": packed["counts"].decode()}


def annotation(number, category, segmentation, area=1.0, crowd=0):
    return {
        "id": number,
        "image_id": 5,
        "category_id": category,
        "segmentation": segmentation,
        "area": area,
        "iscrowd": crowd,
    }


def tree(root, *annotations, described=None, **changes):
    image(root / "images" / "x.jpg")
    raw = {
        "images": [{"id": 5, "file_name": "x.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": list(annotations),
        "categories": [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    (root / "instances.json").write_text(json.dumps(raw | changes))
    (root / "data.json").write_text(
        json.dumps({"images": "images", "coco": "instances.json", **(described or {})})
    )
    return root


def test_polygons_and_both_kinds_of_run_lengths(tmp_path):
    shapes = [
        annotation(1, 90, [polygon(0, 0, 2, 3), polygon(4, 0, 6, 2)], area=10),
        annotation(2, 3, runs(block(0, 4, 2, 8)), area=8),
        annotation(3, 3, compressed(block(3, 5, 5, 7)), area=4),
    ]
    dataset = open_dataset(tree(tmp_path, *shapes))
    assert dataset.spec.classes == ("cat", "dog")  # by rising id
    expected = np.full(SHAPE, 255)
    expected[(block(0, 0, 2, 3) | block(4, 0, 6, 2)) > 0] = 1
    expected[(block(0, 4, 2, 8) | block(3, 5, 5, 7)) > 0] = 0
    np.testing.assert_array_equal(dataset[0].mask, expected)


def test_small_shapes_lie_on_large_ones_and_crowds_below(tmp_path):
    shapes = [
        annotation(1, 3, runs(block(1, 1, 3, 3)), area=4),
        annotation(2, 90, runs(block(0, 0, 4, 4)), area=16),
        annotation(3, 3, runs(block(0, 0, 6, 8)), area=2, crowd=1),
    ]
    mask = open_dataset(tree(tmp_path, *shapes))[0].mask
    assert (mask[1, 1], mask[0, 0], mask[5, 7]) == (0, 1, 0)


def test_background_takes_what_is_not_annotated(tmp_path):
    shapes = [annotation(1, 3, runs(block(0, 0, 1, 1)))]
    dataset = open_dataset(tree(tmp_path, *shapes, described={"background": "rest", "unseen": ["dog"]}))
    assert dataset.spec.classes == ("rest", "cat", "dog")
    assert (dataset.spec.background, dataset.spec.unseen, dataset.spec.palette[0]) == (0, (2,), (0, 0, 0))
    assert (dataset[0].mask == 1).sum() == 1
    assert (dataset[0].mask == 0).sum() == HEIGHT * WIDTH - 1


BAD = [
    ([annotation(8, 4, [])], {}, "annotation 8 has category_id 4, which is not declared"),
    ([annotation(8, 3, []) | {"image_id": 6}], {}, "annotation 8 has image_id 6, which is not declared"),
    ([annotation(8, 3, [[1, 2, 3]])], {}, r"annotation 8 of x\.jpg: .*at least 3 points"),
    ([annotation(8, 3, {"size": [2, 2], "counts": [4]})], {}, "annotation 8 .*run lengths are for"),
    ([annotation(8, 3, None)], {}, "has boxes but no masks"),
    ([], {"categories": []}, r"declares no classes: add categories to .*instances\.json"),
    (
        [],
        {"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]},
        "two categories have the name 'a'",
    ),
    ([], {"images": []}, "is empty"),
    (
        [],
        {"images": [{"id": 5, "file_name": "x.jpg", "height": "?", "width": 8}]},
        r"image 5 has height '\?' and width 8",
    ),
    ([], {"images": [{"id": 5}]}, r"image 5 has the file_name None"),
    ([], {"images": [{"id": 5, "file_name": "y.jpg", "height": 6, "width": 8}]}, r"y\.jpg"),
    (
        [],
        {"images": [{"id": 5, "file_name": "x.jpg", "height": 9, "width": 8}]},
        r"x\.jpg is 8x6 \(width x height\) but in .* 8x9: correct its entry",
    ),
]


@pytest.mark.parametrize(("annotations", "changes", "words"), BAD, ids=lambda value: str(value)[:30])
def test_bad_coco_files(annotations, changes, words, tmp_path):
    tree(tmp_path, *annotations, **changes)
    with pytest.raises(UserError, match=words) as caught:
        open_dataset(tmp_path)[0]
    assert "\n" not in str(caught.value)


def test_files_that_are_not_coco(tmp_path):
    tree(tmp_path)
    (tmp_path / "instances.json").write_text('{"images": []}')
    with pytest.raises(UserError, match="is not a COCO file, it has no 'categories'"):
        open_dataset(tmp_path)
    (tmp_path / "instances.json").write_text("nonsense")
    with pytest.raises(UserError, match=r"instances\.json is not JSON"):
        open_dataset(tmp_path)
    (tmp_path / "instances.json").unlink()
    with pytest.raises(UserError, match=r"no COCO file .*instances\.json"):
        open_dataset(tmp_path)
