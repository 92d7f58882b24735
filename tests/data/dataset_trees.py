"""Tiny data sets in the exact layout and formats of the official archives."""

import json

import numpy as np
from PIL import Image
from scipy.io import savemat

SHAPE = (6, 8)


def image(path, shape=SHAPE):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(len(path.name)).randint(0, 256, (*shape, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def ids(first, *more):
    """An array of `SHAPE` that holds the given ids, the first one most."""
    found = np.full(SHAPE, first, np.int32)
    found.flat[: len(more)] = more
    return found


def mask(path, values, indexed=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values.astype(np.uint8))
    if indexed:
        picture.putpalette([(7 * k) % 256 for k in range(768)])
    picture.save(path)
    return path


def lines(path, *names):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def voc(root):
    """VOC 2012 with two training images and one of validation, and SBD with one more of each."""
    home = root / "VOCdevkit" / "VOC2012"
    for name in ("2007_1", "2007_2", "2007_3", "2008_4", "2008_5"):
        image(home / "JPEGImages" / f"{name}.jpg")
    for name in ("2007_1", "2007_2", "2007_3"):
        mask(home / "SegmentationClass" / f"{name}.png", ids(0, 1, 20, 255), indexed=True)
    lines(home / "ImageSets/Segmentation/train.txt", "2007_1", "2007_2")
    lines(home / "ImageSets/Segmentation/val.txt", "2007_3")
    boundaries = root / "VOCdevkit" / "VOCaug" / "dataset"
    for name in ("2007_2", "2007_3", "2008_4", "2008_5"):
        sbd(boundaries / "cls" / f"{name}.mat", ids(0, 15, 3))
    lines(boundaries / "train.txt", "2007_2", "2008_4")
    lines(boundaries / "val.txt", "2007_3", "2008_5")
    return home


def sbd(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    boundaries = np.empty((20, 1), object)
    boundaries[:] = [[np.zeros((1, 1))]] * 20
    truth = {"Boundaries": boundaries, "Segmentation": values.astype(np.uint8), "CategoriesPresent": [[15.0]]}
    savemat(path, {"GTcls": truth}, do_compression=True)


def context(root):
    home = root / "VOCdevkit" / "VOC2010"
    for name in ("2008_1", "2008_2", "2010_9"):
        image(home / "JPEGImages" / f"{name}.jpg")
    (home / "trainval").mkdir()
    for name in ("2008_1", "2008_2"):  # 2010_9 is an image of VOC 2010 that Context does not label
        savemat(
            home / "trainval" / f"{name}.mat", {"LabelMap": ids(1, 0, 2, 9, 458, 459, 23).astype(np.uint16)}
        )
    lines(home / "ImageSets/Main/train.txt", "2008_1", "2010_9")
    lines(home / "ImageSets/Main/val.txt", "2008_2")
    return home


def coco(root):
    home = root / "coco_stuff164k"
    for split, name in (("train2017", "000000000009"), ("val2017", "000000000139")):
        image(home / "images" / split / f"{name}.jpg")
        mask(home / "annotations" / split / f"{name}.png", ids(181, 0, 10, 12, 89, 91, 255))
    return home


def ade(root):
    home = root / "ade" / "ADEChallengeData2016"
    for split, kind, name in (("training", "train", 1), ("training", "train", 2), ("validation", "val", 1)):
        image(home / "images" / split / f"ADE_{kind}_{name:08d}.jpg")
        mask(home / "annotations" / split / f"ADE_{kind}_{name:08d}.png", ids(0, 1, 150))
    return home


def cityscapes(root):
    home = root / "cityscapes"
    for split, city in (("train", "aachen"), ("val", "frankfurt")):
        stem = f"{city}_000000_000019"
        image(home / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
        mask(home / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", ids(0, 7, 33, 11, 3))
    return home


TREES = {
    "voc20": voc,
    "voc21": voc,
    "context59": context,
    "context60": context,
    "coco-stuff": coco,
    "coco-object": coco,
    "ade20k": ade,
    "cityscapes": cityscapes,
}


def instances(root):
    """COCO for detection: a picture of each split with one box and its polygon."""
    home = root / "coco"
    for split, number in (("train", 9), ("val", 139)):
        name = f"{number:012d}.jpg"
        image(home / f"{split}2017" / name)
        shape = {"bbox": [1, 1, 4, 3], "area": 12, "segmentation": [[1, 1, 5, 1, 5, 4, 1, 4]], "iscrowd": 0}
        content = {
            "images": [{"id": number, "file_name": name, "height": SHAPE[0], "width": SHAPE[1]}],
            "annotations": [{"id": 1, "image_id": number, "category_id": 18, **shape}],
            "categories": [{"id": 18, "name": "dog"}],
        }
        path = home / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return home
