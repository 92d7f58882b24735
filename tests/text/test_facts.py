import pytest

from denseclip.errors import UserError
from denseclip.text import class_set, class_set_names, dataset_facts, facts

SIZES = {"voc": 20, "context": 59, "coco-stuff": 171, "ade": 150, "city": 19, "context-459": 459, "mickey": 7,
         "batman": 7, "mario": 7, "gates": 7, "blur": 20, "sports": 17, "car-brands": 23, "batman-ext": 26,
         "car-color": 24}  # fmt: skip


def test_every_class_set_of_the_official_tool_is_there() -> None:
    assert {name: len(class_set(name)) for name in class_set_names()} == SIZES


@pytest.mark.parametrize("name", SIZES)
def test_words_of_a_set_differ(name: str) -> None:
    words = [word.strip().casefold() for word in class_set(name)]
    assert len(set(words)) == len(words)
    assert all(words)


def test_prompt_names_differ_from_the_data_sets_own() -> None:
    voc = class_set("voc")
    assert [voc[i] for i in (0, 10, 15, 19)] == ["airplane", "dining table", "potted plant", "tv monitor"]
    stuff = class_set("coco-stuff")
    assert [stuff[i] for i in (91, 102, 133, 160, 168)] == [
        "tile ceiling", "marble floor", "playingfield", "concrete wall", "blind window"]  # fmt: skip
    assert class_set("ade")[7] == "bed "
    assert class_set("blur")[:2] == ("very blurry car", "car")
    assert class_set("mickey")[2:] == ("building", "ground", "grass", "tree", "sky")


def test_set_names_forgive_case_and_underscores() -> None:
    assert class_set(" COCO_Stuff ") == class_set("coco-stuff")


@pytest.mark.parametrize(
    "name", ["voc20", "voc21", "context59", "context60", "coco-stuff", "ade20k", "cityscapes"]
)
def test_data_sets_are_consistent(name: str) -> None:
    data = dataset_facts(name)
    extra = data.classes[0] == "background"
    assert len(class_set(data.class_set)) + extra == len(data.classes) == len(data.palette)
    assert all(0 <= channel <= 255 for color in data.palette for channel in color)
    assert all(0 <= index < len(data.classes) for index in data.unseen)


def test_unseen_classes_are_those_of_the_papers() -> None:
    unseen = {name: [data.classes[i] for i in data.unseen] for name, data in facts().datasets.items()}
    assert unseen["voc20"] == unseen["voc21"] == ["pottedplant", "sheep", "sofa", "train", "tvmonitor"]
    assert unseen["context60"] == ["cow", "motorbike", "sofa", "cat", "boat", "fence", "bird", "tvmonitor",
                                   "keyboard", "aeroplane"]  # fmt: skip
    assert len(unseen["coco-stuff"]) == 15
    assert unseen["ade20k"] == unseen["cityscapes"] == []


def test_raw_ids() -> None:
    assert len(facts().context_raw_ids) == 60
    assert sorted(facts().context_raw_ids) == list(facts().context_raw_ids)
    assert 182 - len(facts().coco_stuff_missing_ids) == 171


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"^there is no class set 'cooc'; choose one of voc, context, coco-stuff, "
    ):
        class_set("cooc")
    with pytest.raises(UserError, match=r"^there is no data set 'voc'; did you mean voc21"):
        dataset_facts("voc")
