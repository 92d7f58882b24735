"""The corruptions against the official pictures, and the seeding that makes them repeatable."""

import numpy as np
import pytest

from denseclip.data.corruptions import KINDS, LEVELS, corrupt, corrupt_array, corruption_seed
from denseclip.errors import UserError
from fixtures_support import cases


def official_cases():
    for path in cases("maskclip", "*corruptions*.npz"):
        with np.load(path) as data:
            for name in data.files:
                if "/" in name:
                    kind, level = name.split("/")
                    yield pytest.param(
                        data["image"], int(data["seed"]), kind, int(level), data[name], id=name
                    )


@pytest.mark.fixtures
@pytest.mark.parametrize(("image", "seed", "kind", "level", "expected"), list(official_cases()))
def test_equals_the_official_pictures(image, seed, kind, level, expected):
    rng = np.random.RandomState(
        seed + level
    )  # the stream of the global generator seeded with the same number
    found = corrupt_array(image, kind, level, rng).astype(int)
    if kind == "jpeg_compression":  # libjpeg builds differ in rounding
        assert np.abs(found - expected).mean() <= 1
    else:
        assert np.abs(found - expected).max() <= (1 if "blur" in kind or kind == "spatter" else 0)


@pytest.fixture
def image():
    ramp = np.linspace(20, 235, 48 * 64 * 3).reshape(48, 64, 3)
    return (ramp[::-1] * 0.5 + np.random.RandomState(0).uniform(0, 120, ramp.shape)).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_and_level_gives_a_picture_that_gets_worse(kind, image):
    errors = []
    for level in LEVELS:
        before = image.copy()
        found = corrupt(image, kind, level, seed=corruption_seed("a", kind, level))
        assert found.shape == image.shape
        assert found.dtype == np.uint8
        assert np.array_equal(image, before)
        errors.append(np.abs(found.astype(int) - image).mean())
    if kind != "spatter":  # its levels change the look, not only the strength
        assert errors == sorted(errors)
    assert errors[0] > 0.3


def test_impulse_noise_hits_the_stated_share_half_of_it_white():
    image = np.full((200, 200, 3), 100, np.uint8)
    found = corrupt_array(image, "impulse_noise", 4, np.random.RandomState(1))
    assert abs((found != 100).mean() - 0.17) < 0.005
    assert abs((found == 255).sum() / (found != 100).sum() - 0.5) < 0.01
    assert set(np.unique(found)) == {0, 100, 255}
    assert (found != 100).all(-1).mean() < 0.02  # channels are hit one by one


def test_official_order_corrupts_blue_first(image):
    official = corrupt(image, "gaussian_noise", 3, seed=5)
    plain = corrupt(image[..., ::-1], "gaussian_noise", 3, seed=5, official=False)
    assert np.array_equal(official, plain[..., ::-1])
    black = np.zeros_like(image)
    red, _, blue = corrupt(black, "spatter", 1, seed=5).astype(int).sum((0, 1))
    assert red > blue  # the published water is yellowish: its blue and red are exchanged
    red, _, blue = corrupt(black, "spatter", 1, seed=5, official=False).astype(int).sum((0, 1))
    assert red < blue


def test_seeds_differ_by_image_kind_and_level_and_are_stable():
    seeds = {corruption_seed(i, k, level) for i in ("a", "b") for k in KINDS for level in LEVELS}
    assert len(seeds) == 80
    assert corruption_seed("2007_000033", "shot_noise", 2) == 4124321370
    assert all(0 <= seed < 2**32 for seed in seeds)


class Dry:
    """Draws nothing but the mean, so that no liquid passes the threshold."""

    def normal(self, size, loc, scale):
        return np.full(size, loc)


def test_spatter_without_a_drop_leaves_the_picture():
    image = np.full((9, 9, 3), 77, np.uint8)
    found = corrupt_array(image, "spatter", 1, Dry())
    assert set(np.unique(found)) <= {76, 77}  # cut, not rounded, on the way through 0..1


@pytest.mark.parametrize(
    ("kind", "level", "words"),
    [("fog", 1, "unknown corruption 'fog'"), ("spatter", 6, "level 6: choose from 1 to 5")],
)
def test_unknown_names_are_refused(image, kind, level, words):
    with pytest.raises(UserError, match=words):
        corrupt(image, kind, level, seed=0)
