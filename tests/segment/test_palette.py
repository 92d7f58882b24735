"""Colors of classes, measured as people see them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from denseclip.segment.paint import DEFICIENCIES, PALETTE, cielab, class_colors, voc_palette

TOOL = Path(__file__).parents[2] / "tools" / "make_palette.py"


def gaps(sight, count=256):
    """CIELAB distances (count, count) between the first colors; none of a color to itself."""
    lab = cielab(PALETTE[:count], sight)
    return np.linalg.norm(lab[:, None] - lab[None], axis=2) + np.diag(np.full(count, np.inf))


def test_cielab_is_that_of_the_standard():
    np.testing.assert_allclose(cielab([255, 0, 0]), (53.24, 80.09, 67.20), atol=0.01)
    np.testing.assert_allclose(cielab([[255, 255, 255], [0, 0, 0]]), [(100, 0, 0), (0, 0, 0)], atol=0.01)
    red, green = cielab([[200, 60, 40], [90, 120, 40]], "deuteranopia")
    assert np.linalg.norm(red - green) < 0.5 * np.linalg.norm(cielab([200, 60, 40]) - cielab([90, 120, 40]))


@pytest.mark.parametrize(
    ("sight", "near", "first", "legend", "anywhere"),
    [(None, 25, 26, 21, 6.4), *((kind, 10, 13.5, 10, 3.2) for kind in DEFICIENCIES)],
)
def test_colors_are_far_apart(sight, near, first, legend, anywhere):
    """Near: of two at most 8 places apart; first: of the first 20; legend: of 32, beyond which areas are named."""
    apart = gaps(sight)
    close = np.abs(np.subtract.outer(np.arange(256), np.arange(256))) <= 8
    assert apart[close].min() >= near
    assert apart[:20, :20].min() >= first
    assert apart[:32, :32].min() >= legend
    assert apart.min() >= anywhere


def test_the_list_is_what_its_tool_makes():
    spec = importlib.util.spec_from_file_location("make_palette", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert (tool.make() == PALETTE).all()


def test_no_color_is_that_of_background_or_edges():
    assert len(np.unique(PALETTE, axis=0)) == 256
    lightness = cielab(PALETTE)[:, 0]
    assert 25 < lightness.min() < lightness.max() < 90


def test_a_background_takes_no_color_from_the_classes():
    plain = class_colors(["cat", "dog", "sky"])
    assert (class_colors(["background", "cat", "dog", "sky"])[1:] == plain).all()
    assert (class_colors(["cat", "Background ", "dog"])[[0, 2]] == plain[:2]).all()
    assert class_colors(["cat", "Background "])[1].tolist() == [0, 0, 0]


def test_more_classes_than_colors():
    many = class_colors([str(k) for k in range(600)])
    assert (many[256:512] == many[:256]).all()
    assert class_colors([]).shape == (0, 3)


def test_voc_palette():
    assert voc_palette(4).tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
