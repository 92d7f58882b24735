"""The declarations of the papers' data sets against their facts."""

import numpy as np
import pytest

from denseclip.data.datasets import to_classes
from denseclip.data.published import dataset_names, dataset_spec
from denseclip.errors import UserError
from denseclip.text.prompts import class_set, facts

SIZES = {
    "voc20": 20,
    "voc21": 21,
    "context59": 59,
    "context60": 60,
    "coco-stuff": 171,
    "ade20k": 150,
    "cityscapes": 19,
    "coco-object": 81,
}


def test_all_of_them_with_their_number_of_classes():
    published = [dataset_spec(name) for name in dataset_names() if not name.startswith("stickers")]
    assert {spec.name: len(spec.classes) for spec in published} == SIZES


@pytest.mark.parametrize("name", SIZES)
def test_classes_prompts_and_groups_fit_together(name):
    spec = dataset_spec(name)
    assert len(set(spec.classes)) == len(spec.classes)
    assert sorted((*spec.seen, *spec.unseen)) == list(range(len(spec.classes)))
    assert set(spec.splits) == {"train", "val"}
    if spec.background is not None:
        assert spec.classes[spec.background] == "background"
        assert spec.background in spec.seen  # as the papers count it
    assert ("background" in spec.classes) == (spec.background is not None)


@pytest.mark.parametrize("name", SIZES)
def test_stored_ids_mean_what_the_official_rule_says(name):
    spec = dataset_spec(name)
    raw = np.array([sorted({*spec.label_ids, *spec.void_ids})], np.uint8)
    official = raw if 0 not in spec.void_ids else np.where(np.isin(raw, (0, 255)), 255, raw - 1)
    np.testing.assert_array_equal(to_classes(raw, spec.label_ids, spec.void_ids, "x"), official)


def test_names_differ_from_prompts_only_as_published():
    assert dataset_spec("voc20").prompts[0] == ("airplane",)
    assert dataset_spec("voc20").classes[0] == "aeroplane"
    assert dataset_spec("context60").prompts[0] == ("background",)
    assert dataset_spec("context60").prompts[40] == ("potted plant",)
    assert dataset_spec("coco-stuff").prompts[159] == ("brick wall",)
    assert dataset_spec("coco-object").classes[1::79] == ("person", "toothbrush")


def test_unseen_classes_by_name():
    names = {name: [dataset_spec(name).classes[k] for k in dataset_spec(name).unseen] for name in SIZES}
    assert names["voc20"] == names["voc21"] == ["pottedplant", "sheep", "sofa", "train", "tvmonitor"]
    context = [
        "cow",
        "motorbike",
        "sofa",
        "cat",
        "boat",
        "fence",
        "bird",
        "tvmonitor",
        "keyboard",
        "aeroplane",
    ]
    assert names["context59"] == names["context60"] == context
    assert len(names["coco-stuff"]) == 15
    assert "wall-concrete" in names["coco-stuff"]
    assert names["ade20k"] == names["cityscapes"] == names["coco-object"] == []


def test_context_ids_are_those_of_their_categories():
    """The 59 classes are found by name among the 459 categories, which are numbered from 1."""
    categories = class_set("context-459")
    named = [categories[raw - 1] for raw in facts().context_raw_ids[1:]]
    assert named == [word for (word,) in dataset_spec("context59").prompts]


def test_published_sizes_and_resize_rules():
    sizes = {
        name: {k: sum(p.size for p in v) for k, v in dataset_spec(name).splits.items()} for name in SIZES
    }
    assert sizes["voc20"] == {"train": 10582, "val": 1449}
    assert sizes["context60"] == {"train": 4998, "val": 5105}
    assert sizes["coco-object"] == sizes["coco-stuff"] == {"train": 118287, "val": 5000}
    assert sizes["ade20k"] == {"train": 20210, "val": 2000}
    assert sizes["cityscapes"] == {"train": 2975, "val": 500}
    rules = {name: str(dataset_spec(name).resize) for name in SIZES}
    assert rules["voc20"] == rules["ade20k"] == rules["coco-stuff"] == "2048x512"
    assert (rules["context59"], rules["cityscapes"]) == ("520x520", "1024x512")


def test_names_are_forgiving_and_unknown_ones_refused():
    assert dataset_spec("COCO_Stuff") is dataset_spec("coco-stuff")
    with pytest.raises(UserError, match="unknown data set 'voc': did you mean voc21"):
        dataset_spec("voc")
