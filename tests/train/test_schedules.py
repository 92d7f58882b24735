"""The poly schedule: official values, warm-up, ends."""

import re

import numpy as np
import pytest

from denseclip.train.loop import poly_lr
from fixtures_support import cases


@pytest.mark.fixtures
@pytest.mark.parametrize("path", cases("maskclip", "poly_lr*.npz"), ids=lambda p: p.stem)
def test_official_values(path):
    stored = np.load(path)
    runs = [match for match in map(re.compile(r"(\d+)_([\d.e-]+)/iter").fullmatch, stored.files) if match]
    assert runs
    for run in runs:
        ours = [poly_lr(int(i), int(run[1]), float(run[2])) for i in stored[run[0]]]
        np.testing.assert_allclose(ours, stored[run[0].replace("iter", "lr")], rtol=1e-7)


@pytest.mark.parametrize(  # DenseCLIP's segmentation schedule: 80,000 iterations, 1500 of warm-up
    ("iteration", "base", "rate"),
    [
        (0, 1e-4, 1e-10),
        (1, 1e-4, 6.676585638652886e-08),
        (750, 1e-4, 4.958219687946715e-05),
        (750, 1e-5, 4.962018352678832e-06),
    ],
)
def test_official_warm_up(iteration, base, rate):
    ours = poly_lr(iteration, 80_000, base, min_lr=1e-6, warmup=1500)
    assert ours == pytest.approx(rate, rel=1e-6)


def test_ends():
    assert poly_lr(0, 100, 0.01) == pytest.approx(0.01)
    assert poly_lr(100, 100, 0.01) == poly_lr(150, 100, 0.01) == pytest.approx(1e-4)
