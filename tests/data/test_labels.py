"""Training labels against the official loader: ids become classes, then some are hidden."""

import json

import numpy as np
import pytest

from denseclip.data.datasets import to_classes
from denseclip.train.batches import hide
from fixtures_support import cases


def training_labels(raw, reduce_zero, suppress):
    """As a data set reads them whose 0 is void, or is not, and as a training then hides classes."""
    void = (0, 255) if reduce_zero else (255,)
    ids = [value for value in range(255) if value not in void]
    return hide(to_classes(raw, ids, void, "the case"), suppress)


def official_cases():
    for path in cases("maskclip", "*labels*.npz"):
        with np.load(path) as data:
            for key in data.files:
                if key.endswith("/raw"):
                    name = key.removesuffix("/raw")
                    config = json.loads(str(data[f"{name}/cfg"]))
                    yield pytest.param(config, data[key], data[f"{name}/out"], id=name)


@pytest.mark.fixtures
@pytest.mark.parametrize(("config", "raw", "expected"), list(official_cases()))
def test_equals_the_official_loader(config, raw, expected):
    before = raw.copy()
    found = training_labels(raw, config.get("reduce_zero_label", False), config.get("suppress_labels", ()))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(raw, before)


def test_suppressed_labels_are_counted_after_the_shift():
    found = training_labels(np.array([[0, 1, 2, 255]], np.uint8), reduce_zero=True, suppress=[0])
    assert found.tolist() == [[255, -1, 1, 255]]
