import logging
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from denseclip.text import EmbeddingCache, cache_folder
from denseclip.text.embeddings import MERGE_AT, Rows

GROUP = "g" * 32


def rows(*numbers: int, width: int = 8) -> Rows:
    return {n.to_bytes(32, "big"): np.full(width, n, np.float32) for n in numbers}


def assert_same(one: Rows, other: Rows) -> None:
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[key], other[key]) for key in one)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSECLIP_CACHE", "/a/b")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/a/b")
    assert EmbeddingCache().folder == Path("/a/b/embeddings")
    monkeypatch.delenv("DENSECLIP_CACHE")
    assert cache_folder() == Path("/x/denseclip")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "denseclip"


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    EmbeddingCache("~/kept").store(GROUP, rows(1))
    assert len(shards(tmp_path / "kept")) == 1


def test_groups_are_apart_and_stores_add_up(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    assert cache.load(GROUP) == {}
    cache.store(GROUP, rows(1, 2))
    cache.store(GROUP, rows(3))
    cache.store("other", rows(4))
    assert_same(EmbeddingCache(tmp_path).load(GROUP), rows(1, 2, 3))


def test_many_shards_become_one(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    for number in range(MERGE_AT):
        cache.store(GROUP, rows(number))
    assert len(shards(tmp_path)) == MERGE_AT
    cache.store(GROUP, rows(MERGE_AT))
    assert len(shards(tmp_path)) == 1
    assert_same(cache.load(GROUP), rows(*range(MERGE_AT + 1)))


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "rename"])
def test_damage_is_logged_removed_and_never_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    cache = EmbeddingCache(tmp_path)
    cache.store(GROUP, rows(1))
    [good] = shards(tmp_path)
    cache.store(GROUP, rows(2, 3))
    [bad] = set(shards(tmp_path)) - {good}
    content = bytearray(bad.read_bytes())
    content[-1] ^= 1
    if harm == "rename":
        bad = bad.rename(bad.with_name("0" * 64 + bad.suffix))
    else:
        bad.write_bytes({"flip": content, "cut": content[:-4], "empty": b""}[harm])
    with caplog.at_level(logging.INFO, "denseclip"):
        assert_same(cache.load(GROUP), rows(1))
    assert [record.message.endswith("are damaged; they are computed anew") for record in caplog.records] == [
        True
    ]
    assert shards(tmp_path) == [good]


def test_an_unwritable_folder_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = EmbeddingCache(tmp_path / "file" / "deep")
    cache.store(GROUP, rows(1))
    cache.store(GROUP, rows(2))
    assert cache.load(GROUP) == {}
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "class embeddings are not cached" in record.message
    assert record.message.endswith("set DENSECLIP_CACHE to a writable folder")


def test_the_oldest_shards_go_first_beyond_the_limit(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, limit_bytes=9_000)
    for number in range(3):
        cache.store(f"group{number}", rows(number, width=1000))
        for path in shards(tmp_path / f"group{number}"):
            os.utime(path, (number, number))
    assert [bool(cache.load(f"group{number}")) for number in range(3)] == [False, True, True]


def test_left_overs_of_dead_writers_are_removed_and_fresh_ones_kept(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    cache.store(GROUP, rows(1))
    old, new = (tmp_path / GROUP / f".{name}.tmp.safetensors" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    cache.store(GROUP, rows(2))
    assert not old.exists()
    assert new.exists()
    assert_same(cache.load(GROUP), rows(1, 2))


def test_threads_may_write_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: EmbeddingCache(tmp_path).store(GROUP, rows(n)), range(40)))
    loaded = EmbeddingCache(tmp_path).load(GROUP)
    assert loaded.keys() <= rows(*range(40)).keys()
    assert len(loaded) == 40


def write_and_check(folder: Path, start: int) -> None:
    for number in range(start, start + 20):
        cache = EmbeddingCache(folder)
        cache.store(GROUP, rows(number))
        for key, row in cache.load(GROUP).items():
            assert (row == int.from_bytes(key, "big")).all()


def test_processes_may_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_and_check, args=(tmp_path, start)) for start in (0, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert_same(EmbeddingCache(tmp_path).load(GROUP), rows(*range(20), *range(100, 120)))
