"""Data sets known by name: the papers' (maskclip sections e and f), and the sticker sets."""

from functools import cache
from typing import Any

from denseclip.data.datasets import DatasetSpec, Split
from denseclip.data.sticker_sets import sticker_specs
from denseclip.data.transforms import ResizeRule
from denseclip.errors import UserError, choose
from denseclip.text.prompts import class_set, dataset_facts


def dataset_names() -> tuple[str, ...]:
    """All names."""
    return tuple(_specs())


def is_dataset(name: str) -> bool:
    """Whether `dataset_spec(name)` would answer."""
    return _plain(name) in _specs()


def dataset_spec(name: str) -> DatasetSpec:
    """The data set of that name; case and `_` for `-` do not matter. Raises UserError if there is none."""
    if not is_dataset(name):
        raise UserError(f"unknown data set {name!r}: {choose(name, _specs())} (or give a data.json)")
    return _specs()[_plain(name)]


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def _voc() -> dict[str, Any]:
    lists = "ImageSets/Segmentation"
    masks, more = "SegmentationClass/{id}.png", "SegmentationClassAug/{id}.png"
    return {
        "folder": "VOCdevkit/VOC2012",
        "splits": {
            "train": (
                Split("JPEGImages/{id}.jpg", masks, f"{lists}/train.txt", 1464),
                Split("JPEGImages/{id}.jpg", more, f"{lists}/aug.txt", 9118),
            ),
            "val": (Split("JPEGImages/{id}.jpg", masks, f"{lists}/val.txt", 1449),),
        },
        "source": "VOCtrainval_11-May-2012.tar, for training also SBD's benchmark.tgz with its dataset "
        "folder as VOCdevkit/VOCaug/dataset",
    }


def _context() -> dict[str, Any]:
    images, masks = "JPEGImages/{id}.jpg", "SegmentationClassContext/{id}.png"
    return {
        "folder": "VOCdevkit/VOC2010",
        "splits": {
            split: (Split(images, masks, f"ImageSets/SegmentationContext/{split}.txt", size),)
            for split, size in (("train", 4998), ("val", 5105))
        },
        "resize": ResizeRule("long-short", (520, 520)),
        "source": "VOCtrainval_03-May-2010.tar, and PASCAL-Context's trainval.tar.gz (label maps) unpacked "
        "in VOCdevkit/VOC2010",
    }


def _coco(suffix: str) -> dict[str, Any]:
    return {
        "folder": "coco_stuff164k",
        "splits": {
            split: (
                Split(
                    f"images/{split}2017/{{id}}.jpg", f"annotations/{split}2017/{{id}}{suffix}", None, size
                ),
            )
            for split, size in (("train", 118287), ("val", 5000))
        },
        "source": "train2017.zip and val2017.zip unpacked in coco_stuff164k/images, "
        "stuffthingmaps_trainval2017.zip in coco_stuff164k/annotations",
    }


def _ade() -> dict[str, Any]:
    return {
        "folder": "ade/ADEChallengeData2016",
        "splits": {
            split: (Split(f"images/{place}/{{id}}.jpg", f"annotations/{place}/{{id}}.png", None, size),)
            for split, place, size in (("train", "training", 20210), ("val", "validation", 2000))
        },
        "source": "ADEChallengeData2016.zip unpacked in ade",
    }


def _cityscapes() -> dict[str, Any]:
    images, masks = "leftImg8bit/{0}/{{id}}_leftImg8bit.png", "gtFine/{0}/{{id}}_gtFine_labelTrainIds.png"
    return {
        "folder": "cityscapes",
        "splits": {
            split: (Split(images.format(split), masks.format(split), None, size),)
            for split, size in (("train", 2975), ("val", 500))
        },
        "resize": ResizeRule("long-short", (1024, 512)),
        "source": "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip unpacked in cityscapes",
    }


@cache
def _specs() -> dict[str, DatasetSpec]:
    # Context 59 has no published split: Context 60's, without the background
    unseen59 = tuple(k - 1 for k in dataset_facts("context60").unseen)
    made = (
        _spec("voc20", _voc(), zero_is_void=True),
        _spec("voc21", _voc()),
        _spec("context59", _context() | {"unseen": unseen59}, zero_is_void=True),
        _spec("context60", _context()),
        _spec("coco-stuff", _coco("_labelTrainIds.png")),
        _spec("ade20k", _ade(), zero_is_void=True),
        _spec("cityscapes", _cityscapes()),
        _coco_object(),
        *sticker_specs(),
    )
    return {spec.name: spec for spec in made}


def _spec(name: str, fields: dict[str, Any], *, zero_is_void: bool = False) -> DatasetSpec:
    """zero_is_void: 0 in the files is what the classes leave over, and class k has the number k + 1."""
    facts = dataset_facts(name)
    background = facts.classes[0] == "background"
    words = (*(["background"] if background else []), *class_set(facts.class_set))
    defaults = {
        "classes": facts.classes,
        "prompts": tuple((word,) for word in words),
        "palette": facts.palette,
        "label_ids": tuple(range(zero_is_void, len(words) + zero_is_void)),
        "void_ids": (0, 255) if zero_is_void else (255,),
        "background": 0 if background else None,
        "unseen": facts.unseen,
        "fix": f"run `denseclip data prepare {name} ROOT`",
    }
    return DatasetSpec(name, **(defaults | fields))


def _coco_object() -> DatasetSpec:
    """The 80 things of COCO; everything else, unlabeled or not, is background and is counted."""
    stuff = dataset_facts("coco-stuff")
    return DatasetSpec(
        "coco-object",
        classes=("background", *stuff.classes[:80]),
        prompts=tuple((word,) for word in ("background", *class_set("coco-stuff")[:80])),
        palette=((0, 0, 0), *stuff.palette[:80]),
        label_ids=tuple(range(81)),
        background=0,
        fix="run `denseclip data prepare coco-object ROOT`",
        **_coco("_instanceTrainIds.png"),
    )
