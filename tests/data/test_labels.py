"""Training labels against the official loader."""

import json

import numpy as np
import pytest

from denseclip.data.specs import training_labels
from fixtures_support import cases


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
    found = training_labels(
        raw,
        reduce_zero=config.get("reduce_zero_label", False),
        suppress=config.get("suppress_labels", ()),
    )
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(raw, before)


def test_suppressed_labels_are_counted_after_the_shift():
    found = training_labels(np.array([[0, 1, 2, 255]], np.uint8), reduce_zero=True, suppress=[0])
    assert found.tolist() == [[255, -1, 1, 255]]
