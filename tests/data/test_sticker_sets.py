"""Sticker sets: miniatures of the papers' data sets, behind the same interface as files."""

import numpy as np
import pytest

from denseclip.data.check import check
from denseclip.data.opening import open_dataset
from denseclip.data.published import dataset_spec
from denseclip.data.sticker_sets import SIDE, StickerDataset, open_stickers
from denseclip.data.stickers import TEXTURES, sprite_names
from denseclip.errors import UserError
from denseclip.text import ClassPrompts

NAMES = {"stickers20": 20, "stickers21": 21, "stickers59": 59, "stickers135": 135}


@pytest.mark.parametrize("name", NAMES)
def test_classes_are_common_stickers_and_textures(name):
    spec = dataset_spec(name)
    assert len(spec.classes) == NAMES[name]
    words = set(spec.classes) - {"background"}
    assert words <= {*sprite_names(common=True), *TEXTURES}
    assert len(set(spec.palette)) == len(spec.classes)
    assert ClassPrompts(spec.classes, spec.prompts).classes == spec.classes  # no word serves two classes
    assert len(set(spec.scenes.things) & words) == len(spec.scenes.things)


def test_unseen_classes_in_the_papers_proportions():
    sizes = {name: (len(dataset_spec(name).seen), len(dataset_spec(name).unseen)) for name in NAMES}
    assert sizes == {
        "stickers20": (15, 5),
        "stickers21": (16, 5),
        "stickers59": (49, 10),
        "stickers135": (123, 12),
    }
    names = [dataset_spec("stickers21").classes[k] for k in dataset_spec("stickers21").unseen]
    assert names == ["potted plant", "sheep", "sofa", "train", "television"]


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_those_of_any_data_set(name):
    dataset = open_dataset(name)
    assert (dataset.split, len(dataset)) == ("val", 500)
    sample, again = dataset[3], open_dataset(name, split="val")[3]
    assert sample.image_id == f"{name}/val/00003"
    assert sample.image.shape == (SIDE, SIDE, 3)
    assert sample.mask.shape == (SIDE, SIDE)
    assert sample.image.dtype == sample.mask.dtype == np.uint8
    np.testing.assert_array_equal(sample.image, again.image)
    np.testing.assert_array_equal(sample.mask, again.mask)
    assert (open_dataset(name, split="train")[3].image != sample.image).any()


@pytest.mark.parametrize("name", NAMES)
def test_masks_name_the_things_of_the_scene(name):
    dataset = open_dataset(name)
    spec = dataset.spec
    assert isinstance(dataset, StickerDataset)
    for index in range(4):
        scene, mask = dataset.scene(index), dataset[index].mask
        for number, thing in enumerate(scene.things, start=1):
            pixels = mask[scene.instances == number]
            assert (pixels == spec.classes.index(thing.name)).all()  # "red car" is a car
            if pixels.size:
                left, top, right, bottom = thing.box
                assert (scene.instances[top:bottom, left:right] == number).sum() == pixels.size
        rest = mask[scene.instances == 0]
        if name in ("stickers20", "stickers21"):
            assert (rest == {"stickers20": 255, "stickers21": 0}[name]).all()
        else:
            assert {spec.classes[k] for k in np.unique(rest)} <= set(TEXTURES)


def test_some_things_are_colored():
    things = [thing for index in range(12) for thing in open_dataset("stickers59").scene(index).things]
    assert any(thing.color for thing in things)
    assert all(thing.name in dataset_spec("stickers59").classes for thing in things)


def test_every_class_occurs():
    """Counted at a small side, which shows the same scenes."""
    dataset = open_stickers(dataset_spec("stickers20"), side=32)
    found = {k for index in range(80) for k in np.unique(dataset[index].mask)}
    assert found == {*range(20), 255}


def test_another_side_shows_the_same_scene():
    spec = dataset_spec("stickers20")
    large, small = open_stickers(spec, side=160).scene(0), open_stickers(spec, side=80).scene(0)
    assert large.names == small.names
    assert small.image.shape == (80, 80, 3)
    assert open_stickers(spec, side=80)[0].image_id == "stickers20/val/00000@80"


def test_a_root_is_not_needed_and_splits_are_checked(tmp_path):
    assert len(open_dataset("Stickers20", tmp_path, "train")) == 20_000
    with pytest.raises(UserError, match=r"stickers20 has no split 'test': choose from train, val"):
        open_dataset("stickers20", split="test")


def test_check_finds_every_scene():
    found = check("stickers21")
    assert [(each.split, each.images, each.ok) for each in found] == [
        ("train", 20_000, True),
        ("val", 500, True),
    ]
