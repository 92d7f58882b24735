"""Several processes on this machine, joined by Gloo: they learn as one does, and end together."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from train_support import SMALL, weights

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]
LOSSES = """
import json, os, sys
from pathlib import Path
from denseclip.train.training import train
from train_support import small
losses = []
recipe = small(
    steps=4, batch=6, augment={"crop": [64, 64]}, optimizer={"lr": 1e-3},
    labels={"hide": "all", "average": sys.argv[2]},
)
folder = Path(sys.argv[1])
train(recipe, folder, on_step=lambda told: losses.append(told.values["loss"]))
Path(f"{folder}-rank{os.environ.get('RANK', '0')}.json").write_text(json.dumps(losses))
"""
KILLED = """
import sys
from unittest.mock import patch
from denseclip.cli.main import main
with patch.object(sys, "argv", ["denseclip", *sys.argv[1:]]):
    main()
"""


def start(count, script, *arguments):
    """Processes as `torchrun` starts them, without its own messages and without its hand on them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    common = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    world = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            env={**common, **(world | {"RANK": str(i), "LOCAL_RANK": str(i)} if count > 1 else {})},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for i in range(count)
    ]


def ended(processes):
    """Exit codes, and what each said of errors."""
    said = [process.communicate(timeout=300)[1] for process in processes]
    return [process.returncode for process in processes], said


def alike(one, other):
    first, second = weights(one / "last.pt"), weights(other / "last.pt")
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("average", ["official", "valid"])
def test_two_and_three_processes_learn_like_one(tmp_path, average):
    """The same losses within 1e-4 with the same batch over all, and the same weights, so figures, in the end.

    With 32 pixels and the usual rate, channels without variance in 24 cells let rounding grow to 1e-3 in three steps.
    """
    losses = {}
    for count in (1, 2, 3):
        folder = tmp_path / str(count)
        codes, said = ended(start(count, LOSSES, folder, average))
        assert codes == [0] * count, said
        ranks = [json.loads(Path(f"{folder}-rank{i}.json").read_text()) for i in range(count)]
        losses[count] = np.mean(ranks, axis=0)
    for count in (2, 3):
        np.testing.assert_allclose(losses[count], losses[1], rtol=1e-4)
        alike(tmp_path / str(count), tmp_path / "1")


def toml(values):
    text, parts = "", ""
    for key, value in values.items():
        if isinstance(value, dict):
            parts += f"\n[{key}]\n" + toml(value)
        else:
            text += f"{key} = {json.dumps(value)}\n"
    return text + parts


def test_a_killed_process_ends_the_others_and_the_job_goes_on(tmp_path):
    recipe = tmp_path / "own.toml"
    recipe.write_text(toml({**SMALL, "steps": 12, "batch": 4}))
    torn, whole = tmp_path / "torn", tmp_path / "whole"
    command = ["train", recipe, "--no-evaluation", "--device", "cpu", "--out"]
    processes = start(2, KILLED, *command, torn)
    while not (torn / "last.pt").exists():
        assert all(process.poll() is None for process in processes), ended(processes)
        time.sleep(0.02)
    processes[1].kill()
    codes, said = ended(processes)
    assert codes[0] == 2 and "Traceback" not in said[0]
    lines = [line for line in said[0].splitlines() if line.startswith("denseclip: ")]
    assert len(lines) == 1 and "give the same command again to go on" in lines[0]
    step = torch.load(torn / "last.pt", weights_only=True)["progress"]["step"]
    assert 0 < step < 12
    for folder in (torn, whole):
        codes, said = ended(start(2, KILLED, *command, folder))
        assert codes == [0, 0], said
    alike(torn, whole)
