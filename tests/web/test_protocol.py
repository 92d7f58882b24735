"""What travels between page and server."""

import gzip

import numpy as np
import pytest

from denseclip.segment.paint import hexes
from denseclip.web.views import packed, unpacked


@pytest.mark.parametrize(("top", "size"), [(255, 1), (256, 2), (499, 2)])
def test_a_plane_arrives_as_it_was(top, size):
    plane = np.random.default_rng(0).integers(0, top + 1, (5, 7)).astype(np.int32)
    plane[0, 0] = top
    header, arrived = unpacked(gzip.decompress(packed({"name": "größe"}, plane)))
    assert header == {"name": "größe", "size": [5, 7], "bytes": size}
    assert (arrived == plane).all()


def test_colors():
    assert hexes(np.array([[0, 10, 255], [1, 2, 3]], np.uint8)) == ["#000aff", "#010203"]
