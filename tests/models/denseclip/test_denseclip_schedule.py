"""The learning rates of the official schedule, group by group."""

import json

import pytest

from denseclip.train.loop import poly_lr
from fixtures_support import cases


@pytest.mark.fixtures
@pytest.mark.parametrize("path", cases("denseclip", "lr_schedule*.json"), ids=lambda p: p.stem)
def test_poly_with_warm_up(path):
    rates = {"base": 1e-4, "backbone": 1e-5, "text_encoder": 0.0}
    for row in json.loads(path.read_text())["seg_poly"]:
        for group, base in rates.items():
            ours = poly_lr(row["iter"], 80_000, base, min_lr=1e-6, warmup=1500)
            assert ours == pytest.approx(row[group], rel=1e-6, abs=1e-18), (row["iter"], group)
