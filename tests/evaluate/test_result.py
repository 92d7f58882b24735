"""Results: figures in percent, and JSON that reads back."""

import json
import math

import pytest
import torch

from denseclip.errors import UserError
from denseclip.evaluate.metrics import ConfusionMatrix
from denseclip.evaluate.result import Protocol, Result

PROTOCOL = Protocol(
    model="m",
    details="tiny",
    weights="0" * 12,
    data="d",
    split="val",
    images=2,
    contents="1" * 12,
    settings={"resize": "none"},
    corruption=None,
    versions={"torch": "2"},
)


def result(unseen=(2,), protocol=PROTOCOL):
    matrix = ConfusionMatrix(4, per_image=True)
    matrix.update(torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 1, 1, 2]]))
    matrix.update(torch.tensor([[2, 2, 0, 0]]), torch.tensor([[2, 1, 255, 0]]))
    return Result(protocol, matrix, ("a", "b", "c", "never"), unseen, ["bad.png is bad"], seconds=2.0)


def test_summary_by_hand():
    found = result().summary()
    iou = {"a": 2 / 3, "b": 1 / 3, "c": 2 / 3}
    assert found["mIoU"] == pytest.approx(sum(iou.values()) / 3 * 100)
    assert found["pAcc"] == pytest.approx(5 / 7 * 100)
    assert found["mAcc"] == pytest.approx((1 + 1 / 3 + 1) / 3 * 100)
    assert found["mIoU(S)"] == pytest.approx(50)
    assert found["mIoU(U)"] == pytest.approx(200 / 3)
    assert found["hIoU"] == pytest.approx(2 * 50 * (200 / 3) / (50 + 200 / 3))
    assert set(result(unseen=()).summary()) == {"mIoU", "pAcc", "mAcc"}


def test_the_table_has_every_class():
    rows = result().table()
    assert [(row.name, row.unseen, row.pixels) for row in rows] == [
        ("a", False, 2),
        ("b", False, 3),
        ("c", True, 2),
        ("never", False, 0),
    ]
    assert rows[1].iou == pytest.approx(100 / 3)
    assert rows[2].precision == pytest.approx(200 / 3)
    assert all(map(math.isnan, (rows[3].iou, rows[3].accuracy, rows[3].precision)))


@pytest.mark.parametrize("corruption", [None, ("spatter", 3)])
def test_json_reads_back(corruption):
    protocol = Protocol(**{**PROTOCOL.to_dict(), "corruption": corruption})
    one = result(protocol=protocol)
    text = one.to_json()
    two = Result.from_json(text)
    assert two.to_json() == text
    assert two.protocol == protocol
    assert two.summary() == one.summary()
    assert torch.equal(two.matrix.matrix, one.matrix.matrix)
    assert torch.equal(two.matrix.per_image, one.matrix.per_image)
    assert (two.classes, two.unseen, two.skipped, two.images) == (one.classes, one.unseen, one.skipped, 2)
    content = json.loads(text, parse_constant=pytest.fail)  # NaN is no JSON
    assert content["classes"][3]["IoU"] is None
    assert content["summary"]["mIoU"] == 55.56


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"classes": [], "per_image": []}', "null"])
def test_other_json_is_refused(text):
    with pytest.raises(UserError, match="this is no result of an evaluation"):
        Result.from_json(text)


def test_csv_leaves_out_what_does_not_occur():
    lines = result().to_csv().splitlines()
    assert lines[0] == "class,group,IoU,accuracy,precision,pixels"
    assert lines[2] == "b,seen,33.33,33.33,100.00,3"
    assert lines[4] == "never,seen,,,,0"


def test_protocols_differ_in_what_is_told():
    other = Protocol(**{**PROTOCOL.to_dict(), "settings": {"resize": "short:64", "sigma": 5.0}})
    assert PROTOCOL.differences(other) == ["resize", "sigma"]
    assert PROTOCOL.differences(PROTOCOL) == []
