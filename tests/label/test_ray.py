"""The same job on a local Ray cluster of two workers, one of which is killed in the middle."""

import os
import signal
import threading
import time
from functools import partial

import pytest

import label_support
from denseclip.label.engines import RayEngine
from denseclip.label.job import JobOptions, run_job
from denseclip.label.sources import list_items
from denseclip.label.words import WordLabeller
from denseclip.outputs import HOME
from label_support import ALL, Stub, label, tree, write_pictures

PICTURES = 60


def load(folder):
    (folder / str(os.getpid())).touch()
    return WordLabeller(Stub(seconds=0.05))


def kill_one(journal, folder, killed):
    """When a quarter is done, kill the worker that started last."""
    while not journal.exists() or journal.read_bytes().count(b"\n") < PICTURES // 4:
        time.sleep(0.05)
    worker = max(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    os.kill(int(worker.name), signal.SIGKILL)
    killed.append(worker.name)


@pytest.mark.slow
def test_a_worker_dies_and_the_bytes_are_the_same(tmp_path):
    ray = pytest.importorskip("ray")
    source = write_pictures(tmp_path / "in", PICTURES)
    (source / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    label(source, tmp_path / "local", overlays=True)
    ray.cloudpickle.register_pickle_by_value(label_support)
    pids, killed = tmp_path / "pids", []
    pids.mkdir()
    engine = RayEngine(partial(load, pids), workers=2)
    journal = tmp_path / "ray" / HOME / "journal.jsonl"
    killer = threading.Thread(target=kill_one, args=(journal, pids, killed), daemon=True)
    killer.start()
    try:
        ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
        ray.cloudpickle.register_pickle_by_value(__import__(__name__))
        items = list_items(str(source))
        summary = run_job(
            WordLabeller(Stub()), items, tmp_path / "ray", JobOptions(ALL, overlays=True), engine
        )
    finally:
        ray.shutdown()
    assert killed
    assert len(list(pids.iterdir())) >= 3, "the dead worker was replaced"
    assert (summary.labeled, summary.skipped) == (PICTURES, 1)
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")
