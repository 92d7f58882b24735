"""Regions and their outlines: the same pixels whichever way they are said."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denseclip.label.formats.label_studio import encode_brush
from denseclip.segment.regions import along_edges, find_regions, stack_regions, through_centers

SEEDS = st.integers(0, 2**32 - 1)


def noise(seed, classes=3):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 24, 2)
    many = rng.choice([0.3, 0.6, 0.85])
    return ((rng.random((height, width)) < many) * rng.integers(1, classes, (height, width))).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_regions_are_opencvs_connected_components(seed):
    mask = noise(seed, 4)
    regions = find_regions(mask)
    seen = np.full(mask.shape, -1)
    for i in range(len(regions)):
        x, y, width, height = regions.box[i]
        crop = regions.crop(i)
        assert crop.shape == (height, width)
        assert crop.any(0)[[0, -1]].all() and crop.any(1)[[0, -1]].all()
        assert (mask[y : y + height, x : x + width][crop] == regions.label[i]).all()
        assert regions.area[i] == crop.sum()
        seen[y : y + height, x : x + width][crop] = i
    assert (seen >= 0).all()
    components = [
        cv2.connectedComponents((mask == k).astype(np.uint8), connectivity=8)[0] - 1 for k in np.unique(mask)
    ]
    assert len(regions) == sum(components)
    plane = np.random.default_rng(seed).random(mask.shape)
    expected = [plane[seen == i].mean() for i in range(len(regions))]
    assert np.allclose(regions.means(plane), expected)
    assert (regions.paint(np.arange(len(regions))) == seen).all()


def test_left_out_ids_have_no_regions():
    mask = np.array([[0, 1], [255, 1]], np.uint8)
    assert find_regions(mask, (0, 255)).label.tolist() == [1]
    assert len(find_regions(np.zeros((3, 4), np.uint8), (0,))) == 0


def test_a_spiral_is_one_region():
    mask = np.zeros((65, 65), np.uint8)
    for ring in range(0, 32, 2):
        cv2.rectangle(mask, (ring, ring), (64 - ring, 64 - ring), 1)
        mask[ring + 1, ring] = mask[ring + 1, ring + 1] = 1
    assert find_regions(mask, (0,)).label.tolist() == [1]


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_outlines_give_back_the_region_with_its_holes(seed):
    mask_tools = pytest.importorskip("pycocotools.mask")
    mask = noise(seed)
    regions = find_regions(mask, (0,))
    for i in range(len(regions)):
        crop = regions.crop(i)
        filled = np.zeros(crop.shape, np.uint8)
        path = through_centers(crop)
        assert len(path) >= 3
        cv2.fillPoly(filled, [path.astype(np.int32)], 1)
        assert (filled == crop).all()
        (edges,) = along_edges(crop)
        assert len(edges) >= 4
        decoded = mask_tools.decode(
            mask_tools.frPyObjects([edges.ravel().astype(float).tolist()], *crop.shape)
        )
        assert (decoded[..., 0] == crop).all()


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_things_overlap_and_have_parts(seed):
    mask_tools = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 24, 2)
    planes = rng.random((5, height, width)) < rng.choice([0, 0.03, 0.4, 0.9], (5, 1, 1))
    regions = stack_regions(planes, height, width)
    assert regions.label.tolist() == [k for k, plane in enumerate(planes) if plane.any()]
    seen = np.full((height, width), -1)
    for i in reversed(range(len(regions))):
        plane = planes[regions.label[i]]
        seen[plane] = i
        x, y, w, h = regions.box[i]
        crop = regions.crop(i)
        assert plane.sum() == crop.sum() == regions.area[i]
        assert (plane[y : y + h, x : x + w] == crop).all()
        runs = {"size": [height, width], "counts": regions.counts(i)}
        assert (mask_tools.decode(mask_tools.frPyObjects(runs, height, width)) == plane).all()
        paths = [path.ravel().astype(float).tolist() for path in along_edges(crop)]
        decoded = mask_tools.decode(mask_tools.merge(mask_tools.frPyObjects(paths, h, w)))
        assert (decoded == crop).all()
        filled = np.zeros(crop.shape, np.uint8)
        cv2.fillPoly(filled, [through_centers(crop).astype(np.int32)], 1)
        assert filled[crop].all()
    assert (regions.paint(np.arange(1, len(regions) + 1)) == seen + 1).all()


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (300, 300)])
def test_brush_strokes_are_read_by_label_studio(shape):
    brush = pytest.importorskip("label_studio_converter.brush")
    region = np.random.default_rng(1).random(shape) < 0.02
    pixels = brush.decode_rle(list(encode_brush(region))).reshape(*shape, 4)
    assert ((pixels[..., 3] > 0) == region).all()
