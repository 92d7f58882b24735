"""The confusion figure and the grid of examples."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from test_result import PROTOCOL, result

from denseclip.data.opening import open_dataset
from denseclip.errors import UserError
from denseclip.evaluate import plots
from denseclip.evaluate.metrics import ConfusionMatrix
from denseclip.evaluate.plots import (
    CLASSES,
    CONFUSION,
    RESULT,
    WIDTH,
    draw_confusion,
    draw_examples,
    need_matplotlib,
    write_report,
)
from denseclip.evaluate.result import Result
from denseclip.segment.paint import CAPTION, GAP
from own_data import tiny_segmenter, write_own_data


def drawn(one):
    """The axes of the confusion figure."""
    with patch.object(plots, "save_figure") as save:
        draw_confusion(one, "x.png")
    return save.call_args.args[0].axes[0]


def test_unseen_classes_stand_together_and_absent_ones_are_left_out():
    matrix = ConfusionMatrix(5, per_image=True)
    matrix.update(torch.tensor([0, 0, 2, 3, 3]), torch.tensor([0, 3, 2, 3, 3]))
    axes = drawn(Result(PROTOCOL, matrix, ("a", "never", "b", "c", "guessed"), unseen=(0, 4)))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "c", "a"]
    shares = axes.images[0].get_array()
    np.testing.assert_allclose(shares, [[1, 0, 0], [0, 2 / 3, 1 / 3], [0, 0, 1]])
    boxes = [(patch_.get_xy(), patch_.get_width(), patch_.get_height()) for patch_ in axes.patches]
    assert boxes == [((-0.5, -0.5), 2, 2), ((1.5, 1.5), 1, 1)]
    assert [text.get_text() for text in axes.texts] == ["seen", "unseen"]


def test_without_unseen_classes_there_are_no_boxes():
    assert not drawn(result(unseen=())).patches


@pytest.mark.parametrize("classes", [150, 400])
def test_many_classes_can_be_drawn(classes, tmp_path):
    matrix = ConfusionMatrix(classes, per_image=True)
    matrix.update(torch.arange(classes), torch.arange(classes))
    names = tuple(f"class {k}" for k in range(classes))
    draw_confusion(Result(PROTOCOL, matrix, names), tmp_path / "many.png")
    with Image.open(tmp_path / "many.png") as picture:
        assert picture.width < 4000


def test_a_report_is_the_same_twice(tmp_path):
    for folder in ("one", "two"):
        write_report(result(), tmp_path / folder)
    for name in (RESULT, CLASSES, CONFUSION):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_examples_show_image_truth_and_prediction(tmp_path):
    dataset = open_dataset(write_own_data(tmp_path / "own", size=(48, 48)))
    (tmp_path / "own/images/4.png").write_bytes(b"broken")  # left out
    segmenter = tiny_segmenter(dataset.spec)
    draw_examples(segmenter, dataset, tmp_path / "examples.png", images=5, count=3)
    with Image.open(tmp_path / "examples.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] == 3 * WIDTH + 2 * GAP
    tile = pixels[CAPTION : CAPTION + WIDTH, :WIDTH]
    expected = np.asarray(Image.fromarray(dataset[0].image).resize((WIDTH, WIDTH), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(tile, expected)
    assert (
        CAPTION + 2 * (WIDTH + GAP) < pixels.shape[0] < CAPTION + 3 * (WIDTH + GAP)
    )  # two rows and a legend


def test_figures_without_matplotlib_say_what_to_install():
    with patch.dict("sys.modules", {"matplotlib": None}), pytest.raises(UserError, match="pip install"):
        need_matplotlib()
