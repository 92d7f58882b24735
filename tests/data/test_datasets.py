"""Reading samples, and what a user hears of every kind of bad input."""

import json

import numpy as np
import pytest
from dataset_trees import SHAPE, TREES, ids, image, lines, mask
from PIL import Image

from denseclip.data.datasets import read_ids, to_classes
from denseclip.data.opening import open_dataset
from denseclip.data.own import OwnData
from denseclip.errors import UserError


def own(root, **changes):
    """Two images with masks of the classes sky = 0 and cat = 7."""
    for name in ("a", "sub/b"):
        image(root / "images" / f"{name}.jpg")
        mask(root / "masks" / f"{name}.png", ids(0, 7, 255))
    described = {"images": "images", "masks": "masks", "classes": {"0": "sky", "7": "cat"}, "ignore": 255}
    described = {key: value for key, value in (described | changes).items() if value is not None}
    (root / "data.json").write_text(json.dumps(described))
    return root


def test_the_users_own_data(tmp_path):
    dataset = open_dataset(own(tmp_path))
    assert [entry.image_id for entry in dataset.entries] == ["a", "sub/b"]
    assert dataset.spec.classes == ("sky", "cat")
    assert dataset.spec.palette == ((128, 0, 0), (0, 128, 0))
    sample = dataset[1]
    assert (sample.image_id, sample.image.shape, sample.image.dtype) == ("sub/b", (*SHAPE, 3), np.uint8)
    np.testing.assert_array_equal(sample.mask, ids(0, 1, 255))
    assert [each.image_id for each in dataset] == ["a", "sub/b"]
    assert len(open_dataset(str(tmp_path / "data.json"))) == 2


def test_own_data_may_name_background_prompts_unseen_and_splits(tmp_path):
    lines(tmp_path / "one.txt", "sub/b.jpg")
    lines(tmp_path / "two.txt", "sub/b", "a")
    extras = {"background": "sky", "prompts": {"cat": ["cat", "kitten"]}, "unseen": ["cat"]}
    own(tmp_path, splits={"train": "one.txt", "val": "two.txt"}, **extras)
    spec = open_dataset(tmp_path).spec
    assert (spec.background, spec.unseen, spec.seen) == (0, (1,), (0,))
    assert spec.prompts == (("sky",), ("cat", "kitten"))
    assert spec.palette[0] == (0, 0, 0)
    assert [e.image_id for e in open_dataset(tmp_path, split="train").entries] == ["sub/b"]
    assert [e.image_id for e in open_dataset(tmp_path, split="val").entries] == ["sub/b", "a"]
    assert len(open_dataset(tmp_path)) == 2


def test_own_data_can_be_given_without_a_file(tmp_path):
    own(tmp_path)
    data = OwnData(tmp_path / "images", tmp_path / "masks", classes={0: "sky", 7: "cat"}, ignore=(255,))
    np.testing.assert_array_equal(data.open()[0].mask, ids(0, 1, 255))


def test_several_ids_may_be_ignored_and_masks_may_have_16_bits(tmp_path):
    own(tmp_path, classes={"300": "sky", "7": "cat"}, ignore=[0, 65535])
    for name in ("a", "sub/b"):
        Image.fromarray(ids(300, 7, 0, 65535).astype(np.uint16)).save(tmp_path / f"masks/{name}.png")
    dataset = open_dataset(tmp_path)
    assert dataset.spec.classes == ("cat", "sky")
    np.testing.assert_array_equal(dataset[0].mask, ids(1, 0, 255, 255))


def test_more_than_255_classes_have_another_ignore_index(tmp_path):
    own(tmp_path, classes=[f"class {k}" for k in range(300)], ignore=999)
    Image.fromarray(ids(255, 299, 999).astype(np.uint16)).save(tmp_path / "masks/a.png")
    dataset = open_dataset(tmp_path)
    assert dataset.spec.ignore_index == 65535
    np.testing.assert_array_equal(dataset[0].mask, ids(255, 299, 65535))


def test_indexed_and_gray_masks_are_read_as_stored(tmp_path):
    values = ids(3, 200, 255)
    for indexed in (True, False):
        found = read_ids(mask(tmp_path / f"{indexed}.png", values, indexed))
        np.testing.assert_array_equal(found, values)
    Image.fromarray(np.eye(3).astype(bool)).save(tmp_path / "bits.png")
    assert read_ids(tmp_path / "bits.png").tolist() == np.eye(3).astype(int).tolist()


def test_class_indices_of_any_integers():
    assert to_classes(np.array([[5, 70000, 9]]), [9, 5], [70000], "x").tolist() == [[1, 255, 0]]
    for wrong in (-3, 4, 70001, 2**40):
        with pytest.raises(UserError, match=f"mask x has id {wrong}, which is not declared"):
            to_classes(np.array([[5, wrong]]), [9, 5], [70000], "x")


def test_a_root_may_be_the_data_sets_own_folder(tmp_path):
    home = TREES["ade20k"](tmp_path)
    for root in (tmp_path, home.parent, home):
        assert len(open_dataset("ade20k", root, "train")) == 2


def test_folders_belong_to_the_id(tmp_path):
    home = TREES["cityscapes"](tmp_path)
    mask(home / "gtFine/val/frankfurt/frankfurt_000000_000019_gtFine_labelTrainIds.png", ids(255, 18))
    dataset = open_dataset("cityscapes", tmp_path)
    assert dataset.entries[0].image_id == "frankfurt/frankfurt_000000_000019"
    assert dataset[0].mask.flat[0] == 18


# --- bad input: what is done to a good tree, and the line that the user sees ---


def spoil(path, how):
    match how:
        case "remove":
            path.unlink()
        case "cut":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        case "text":
            path.write_text("not a picture")
        case "grow":
            with Image.open(path) as picture:
                picture.resize((30, 20), Image.Resampling.NEAREST).save(path)


BAD_FILES = [
    ("masks/a.png", "cut", r"cannot read mask .*masks/a\.png \(.*\): replace the file"),
    ("masks/a.png", "text", r"cannot read mask .*masks/a\.png \(.*\): replace the file"),
    ("masks/a.png", "remove", r"no mask .*masks/a\.png for image a: add it, or remove the image"),
    (
        "masks/a.png",
        "grow",
        r"mask .*a\.png is 30x20 but its image .*a\.jpg is 8x6 \(width x height\): give both",
    ),
    ("images/a.jpg", "grow", r"mask .*a\.png is 8x6 but its image .*a\.jpg is 30x20"),
    ("images/a.jpg", "cut", r"images/a\.jpg"),
    ("images/a.jpg", "text", r"images/a\.jpg"),
]


@pytest.mark.parametrize(("path", "how", "words"), BAD_FILES)
def test_bad_files(path, how, words, tmp_path):
    own(tmp_path)
    dataset = open_dataset(tmp_path)
    spoil(tmp_path / path, how)
    with pytest.raises(UserError, match=words) as caught:
        dataset[0]
    assert "\n" not in str(caught.value)
    assert dataset[1].image_id == "sub/b"  # --skip-bad goes on


def test_undeclared_ids_name_the_mask_and_the_id(tmp_path):
    own(tmp_path)
    path = mask(tmp_path / "masks/a.png", ids(0, 7, 9))
    with pytest.raises(
        UserError, match=rf"mask {path} has id 9, which is not declared: declare it as a class"
    ):
        open_dataset(tmp_path)[0]


def test_colored_and_lossy_masks_are_refused(tmp_path):
    own(tmp_path)
    Image.new("RGB", SHAPE[::-1]).save(tmp_path / "masks/a.png")
    with pytest.raises(
        UserError, match=r"a\.png holds colors \(RGB\), not one id per pixel: save it as gray"
    ):
        open_dataset(tmp_path)[0]
    Image.new("L", SHAPE[::-1]).save(tmp_path / "masks/a.png", "JPEG")
    with pytest.raises(UserError, match=r"a\.png is a JPEG, which blurs ids: save masks as PNG"):
        open_dataset(tmp_path)[0]


BAD_DESCRIPTIONS = [
    ({"images": "pics"}, "no images folder .*pics: create it"),
    ({"masks": "truth"}, "no masks folder .*truth: create it"),
    ({"masks": None}, "needs either `masks` .* or `coco`"),
    ({"coco": "x.json"}, "needs either `masks` .* or `coco`"),
    ({"masks": None, "coco": "x.json"}, "classes of .* come from .*x.json: remove `classes`"),
    ({"images": None}, "data.json does not say where the images are: write it such as {"),
    ({"classes": {}}, "`classes` is empty"),
    ({"classes": {"sky": "0"}}, "data.json: 'sky' is not an id"),
    ({"classes": {"0": "sky", "7": "sky"}}, "class 'sky' is declared twice"),
    ({"ignore": 7}, "id 7 is a class and ignored at once"),
    ({"ignore": "void"}, "'void' is not an id"),
    ({"classes": {"0": "sky", "70000": "cat"}}, "'70000' is not an id"),
    ({"unseen": ["dog"]}, "'dog' is not a class of .*: choose from sky, cat"),
    ({"background": "rest"}, "'rest' is not a class"),
    ({"clases": {}}, "unknown key 'clases': choose from images, masks"),
    ({"splits": {"val": "no.txt"}}, "no list .*no.txt: write the ids of split val in it"),
    ({"splits": {"val": "wrong.txt"}}, "wrong.txt names 'my c', which is no image in .*images"),
    ({"splits": {"val": "bytes.txt"}}, "list .*bytes.txt is not text in UTF-8"),
    ({"splits": {"val": "empty.txt"}}, "split val of .* has no images: add images, or choose another split"),
    ({"splits": {"test": "no.txt"}}, "no split 'val': choose from all, test"),
    ({"classes": 3}, "data.json: .*: write it such as"),
]


@pytest.mark.parametrize(("changes", "words"), BAD_DESCRIPTIONS, ids=lambda value: str(value)[:40])
def test_bad_descriptions(changes, words, tmp_path):
    lines(tmp_path / "wrong.txt", "my c")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    lines(tmp_path / "empty.txt")
    own(tmp_path, **changes)
    with pytest.raises(UserError, match=words) as caught:
        open_dataset(tmp_path, split="val" if "splits" in changes else None)
    assert "\n" not in str(caught.value)


def test_masks_that_belong_to_no_image_and_folders_without_images(tmp_path):
    own(tmp_path)
    for name in ("a.png", "sub/b.png"):
        path = tmp_path / "masks" / name
        path.rename(path.with_name(f"mask_of_{path.name}"))
    with pytest.raises(
        UserError, match=r"no mask in .*masks belongs to an image: a\.jpg needs .*masks/a\.png"
    ):
        open_dataset(tmp_path)
    for path in tmp_path.glob("images/**/*.jpg"):
        path.unlink()
    with pytest.raises(UserError, match=r"is empty, there is no image in .*images: put images there"):
        open_dataset(tmp_path)


def test_two_images_of_one_name(tmp_path):
    own(tmp_path)
    image(tmp_path / "images/a.png")
    with pytest.raises(UserError, match=r"a\.jpg and a\.png in .*images share a name: rename one"):
        open_dataset(tmp_path)


def test_bad_json_and_no_json(tmp_path):
    with pytest.raises(UserError, match=r"no file .*data\.json: write one such as {"):
        open_dataset(tmp_path)
    (tmp_path / "data.json").write_text("{images: ")
    with pytest.raises(UserError, match=r"data\.json is not JSON"):
        open_dataset(tmp_path)
    with pytest.raises(
        UserError, match=r"unknown data set 'nothing': choose one of voc20, .*or give a data.json"
    ):
        open_dataset("nothing")


PUBLISHED = [
    ("voc20", "val", "VOCdevkit/VOC2012/JPEGImages", "no folder .*VOC2012/JPEGImages: fetch VOCtrainval"),
    (
        "voc20",
        "val",
        "VOCdevkit/VOC2012/ImageSets",
        "no list .*val.txt: run `denseclip data prepare voc20 ROOT`",
    ),
    ("voc20", "train", None, "no list .*aug.txt: run `denseclip data prepare voc20 ROOT`"),
    ("voc20", "test", None, "voc20 has no split 'test': choose from train, val"),
    (
        "coco-stuff",
        "val",
        "coco_stuff164k/images/val2017",
        "split val of coco-stuff is empty, .*: fetch train2017.zip",
    ),
    ("ade20k", "val", "ade", "no folder .*images: fetch ADEChallengeData2016.zip unpacked in ade"),
]


@pytest.mark.parametrize(("name", "split", "removed", "words"), PUBLISHED)
def test_incomplete_published_data(name, split, removed, words, tmp_path):
    TREES[name](tmp_path)
    if removed:
        (tmp_path / removed).rename(tmp_path / "away")
    with pytest.raises(UserError, match=words) as caught:
        open_dataset(name, tmp_path, split)
    assert "\n" not in str(caught.value)


def test_masks_that_are_not_prepared_say_what_to_run(tmp_path):
    TREES["coco-stuff"](tmp_path)
    dataset = open_dataset("coco-stuff", tmp_path)
    with pytest.raises(
        UserError, match=r"no mask .*139_labelTrainIds\.png .*: run `denseclip data prepare coco-st"
    ):
        dataset[0]
    with pytest.raises(UserError, match="where is voc20"):
        open_dataset("voc20")
