"""Working ahead: in order, not too far, and ended when the caller is."""

import threading
import time

import pytest

from denseclip.io import prefetch

AHEAD = 6


def read_ahead(work, items):
    return prefetch(work, items, workers=2, waiting=AHEAD)


def test_results_come_in_order_whichever_is_ready_first():
    def read(index):
        time.sleep(0.02 if index % 3 == 0 else 0)
        return index * index

    assert list(read_ahead(read, range(20))) == [k * k for k in range(20)]
    assert list(read_ahead(read, [])) == []


def test_nothing_is_read_far_ahead():
    asked = []
    stream = read_ahead(lambda index: asked.append(index) or index, range(100))
    assert next(stream) == 0
    time.sleep(0.1)
    assert max(asked) < AHEAD
    stream.close()
    assert len(asked) <= AHEAD


def test_an_error_is_raised_where_its_turn_comes():
    def read(index):
        if index == 2:
            raise ValueError("two")
        return index

    stream = read_ahead(read, range(5))
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(stream)


def test_closing_leaves_no_thread():
    before = threading.active_count()
    stream = read_ahead(lambda index: index, range(50))
    next(stream)
    stream.close()
    assert threading.active_count() == before
