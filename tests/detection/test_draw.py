"""Things painted over a picture."""

import numpy as np
import pytest

from denseclip.detection.predict import draw_instances
from denseclip.segment.paint import class_colors


def extent_of_a_name(x: float, y: float) -> int:
    """Columns of a gray picture, 200 across, that the name of a small box takes."""
    gray = np.full((100, 200, 3), 128, dtype=np.uint8)
    box = np.array([[x, y, x + 9, y + 9]], dtype=np.float32)
    painted = draw_instances(gray, box, [0], ["a red square"])
    return int(np.ptp(np.nonzero((painted == class_colors(["a red square"])[0]).all(2))[1]))


@pytest.mark.parametrize("corner", [(186, 40), (186, 0), (0, 0)])
def test_a_name_is_as_long_at_an_edge_as_in_the_middle(corner):
    assert extent_of_a_name(*corner) == extent_of_a_name(60, 40) > 40
