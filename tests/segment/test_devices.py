"""Several devices: a process each, and the results of one."""

import json
import os
import signal
import time
from contextlib import closing
from functools import partial

import numpy as np
import pytest

from cli_support import run
from denseclip.errors import UserError
from denseclip.segment.engine import Engine, Spread, parse_devices
from label_support import write_scenes


def read(item):
    if item == 7:
        raise UserError("picture 7 cannot be read")
    return np.full((2, 2), item)


def square(pause, item, picture):
    time.sleep(pause * (item % 3))
    return int(picture[0, 0]) ** 2


def killed(item, picture):
    if item == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    return int(picture[0, 0]) ** 2


def engine(finish, device):
    if device == "meta":
        raise UserError("no model on meta")
    return Engine(read, list, finish, batch=2)


def test_results_are_those_of_one_device_in_order():
    with closing(Spread(partial(engine, partial(square, 0.01)), ("cpu", "cpu")).run(range(40))) as results:
        found = list(results)
    assert [item for item, _ in found] == list(range(40))
    assert all(result == item**2 for item, result in found if item != 7)
    assert "picture 7" in str(found[7][1])


def test_nothing_to_do():
    assert list(Spread(partial(engine, partial(square, 0)), ("cpu", "cpu")).run([])) == []


def test_a_process_that_ends_on_its_own_ends_the_job_in_one_line():
    spread = Spread(partial(engine, killed), ("cpu",))
    with (
        pytest.raises(UserError, match="the process on cpu ended \\(exit code -9\\)"),
        closing(spread.run(range(20))) as results,
    ):
        list(results)


def test_an_error_at_the_start_is_the_jobs():
    with pytest.raises(UserError, match="no model on meta"):
        list(Spread(partial(engine, partial(square, 0)), ("meta",)).run(range(3)))


def test_devices_are_named():
    assert parse_devices("cpu, cpu") == ("cpu", "cpu")
    with pytest.raises(UserError, match="--devices names no device"):
        parse_devices(" , ")
    with pytest.raises(UserError, match="cannot be used"):
        parse_devices("cuda:77")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = write_scenes(tmp_path_factory.mktemp("pictures"), 5)
    (folder / "torn.png").write_bytes((folder / "0.png").read_bytes()[:200])
    return folder


def test_segment_and_label_on_two_processes(pictures, tmp_path, capsys):
    common = ["--classes", "cat, dog, grass", "--resize", "none", "--precision", "fp32"]
    for command in ("segment", "label"):
        one, two = tmp_path / f"{command}-1", tmp_path / f"{command}-2"
        alone = run(capsys, command, pictures, *common, "--out", one, "--device", "cpu")
        both = run(capsys, command, pictures, *common, "--out", two, "--devices", "cpu,cpu")
        assert alone.code == both.code == 1, both.err  # the torn one
        made = sorted(path.relative_to(one) for path in one.rglob("*.png"))
        assert made == sorted(path.relative_to(two) for path in two.rglob("*.png")) and len(made) >= 5
        for path in made:
            assert (one / path).read_bytes() == (two / path).read_bytes()
    assert (
        "exclude each other"
        in run(capsys, "segment", pictures, *common, "--device", "cpu", "--devices", "cpu").err
    )


def test_an_evaluation_counts_the_same(tmp_path, capsys):
    for name, how in (("one", ["--device", "cpu"]), ("two", ["--devices", "cpu,cpu"])):
        out = ["--out", tmp_path / name, "--limit", "4", "--precision", "fp32"]
        done = run(capsys, "evaluate", "tiny-rn", "stickers20", *out, *how)
        assert done.code == 0, done.err
    one, two = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two"))
    different = {key for key in one if one[key] != two[key]}
    assert different <= {"seconds", "images_per_second"}, different
