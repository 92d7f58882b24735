"""Sticker scenes: deterministic, size-independent, with labels that fit the picture."""

import numpy as np
import pytest

from denseclip.data.stickers import (
    COLORS,
    TEXTURES,
    SceneRecipe,
    describe,
    render,
    short_captions,
    sprite_names,
)
from denseclip.data.stickers.scenes import RECOLORABLE, pyramid
from denseclip.data.stickers.textures import tile


def test_there_are_enough_words():
    assert len(sprite_names()) >= 400
    assert len(set(sprite_names())) == len(sprite_names())
    assert len(sprite_names(common=True)) >= 100
    assert len(TEXTURES) >= 12
    assert set(sprite_names()) >= RECOLORABLE
    assert not set(sprite_names()) & set(TEXTURES)
    assert all(name == name.strip().lower() for name in sprite_names())


def test_a_scene_depends_on_split_and_index_only():
    first, again = render("val", 7), render("val", 7)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.things == again.things
    assert (render("train", 7).image != first.image).any()
    assert (render("val", 8).image != first.image).any()


def test_a_larger_side_shows_the_same_scene():
    small, large = render("val", 3, side=128), render("val", 3, side=256)
    assert small.names == large.names
    assert (small.labels == large.labels[::2, ::2]).mean() > 0.98


def test_labels_instances_and_boxes_agree():
    for index in range(20):
        scene = render("val", index)
        assert scene.image.shape == (128, 128, 3)
        assert scene.image.dtype == scene.labels.dtype == scene.instances.dtype == np.uint8
        assert scene.labels.max() < len(scene.names)
        for i, thing in enumerate(scene.things):
            mask = scene.instances == i + 1
            assert (scene.labels[mask] == scene.names.index(thing.name)).all()
            x0, y0, x1, y1 = thing.box
            assert mask.sum() == mask[y0:y1, x0:x1].sum()
            if mask.any():
                assert mask[y0].any()
                assert mask[:, x1 - 1].any()
            assert 0 <= thing.visible <= 1


def test_recipes_are_obeyed():
    recipe = SceneRecipe(things=("cat", "car"), stuff=("grass",), count=(3, 3), colors=1.0)
    scene = render("val", 0, recipe)
    assert len(scene.things) == 3
    assert set(scene.names) <= {"grass", "cat", "car"}
    assert all(thing.color in COLORS for thing in scene.things)


def test_captions_name_what_is_seen():
    rng = np.random.default_rng(0)
    for index in range(20):
        scene = render("val", index)
        words = short_captions(scene)
        assert len(set(words)) == len(words)
        seen = {thing.name for thing in scene.things if thing.visible >= 0.4}
        assert seen <= set(words)
        text = describe(scene, rng)
        assert all(name in text for name in seen)


@pytest.mark.parametrize(("color", "channel"), [("red", 0), ("green", 1), ("blue", 2)])
def test_recoloring(color, channel):
    pixels = pyramid("balloon", color)[0]
    body = pixels[pixels[..., 3] > 250][:, :3].mean(0)
    assert body.argmax() == channel


def test_pyramids_are_premultiplied():
    for level, side in zip(pyramid("cat"), (96, 48, 24), strict=True):
        assert level.shape == (side, side, 4)
        assert (level[..., :3].max(-1) <= level[..., 3] + 1).all()


def test_textures_differ_from_each_other():
    means = np.array([tile(name, 0).reshape(-1, 3).mean(0) for name in TEXTURES])
    spread = np.array([tile(name, 0).reshape(-1, 3).std(0).mean() for name in TEXTURES])
    looks = np.column_stack([means, spread[:, None]])
    distance = np.linalg.norm(looks[:, None] - looks[None], axis=-1) + 1e3 * np.eye(len(looks))
    assert distance.min() > 8
