"""The engine: order, batches of one shape, faults that stay with their picture, and bounded memory."""

import threading
from contextlib import closing

import numpy as np
import pytest

from denseclip.errors import UserError
from denseclip.outputs import ForeignFileError
from denseclip.segment.engine import Engine


class Shop:
    """Pictures are arrays (n, n); encoding doubles them; finishing sums them up."""

    def __init__(self, batch=1, workers=3, bad=()):
        self.batches, self.bad, self.read_ahead, self.done = [], set(bad), 0, 0
        self.lock = threading.Lock()
        self.engine = Engine(self.read, self.encode, self.finish, batch, workers=workers)
        self.most = 0

    def read(self, item):
        with self.lock:
            self.read_ahead += 1
            self.most = max(self.most, self.read_ahead - self.done)
        if ("read", item) in self.bad:
            raise UserError(f"{item} cannot be read")
        return np.full((1 + item % 3,) * 2, item)

    def encode(self, pictures):
        assert len({picture.shape for picture in pictures}) == 1
        self.batches.append(len(pictures))
        for picture in pictures:
            if ("encode", int(picture[0, 0])) in self.bad:
                raise MemoryError
        return [picture * 2 for picture in pictures]

    def finish(self, item, encoded):
        if ("finish", item) in self.bad:
            raise UserError(f"{item} cannot be finished")
        return int(encoded.sum())

    def run(self, count):
        found = []
        with closing(self.engine.run(range(count))) as results:
            for item, result in results:
                self.done += 1
                found.append((item, result))
        return found


def value(item):
    return item * 2 * (1 + item % 3) ** 2


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 40])
def test_results_come_in_order_whatever_the_batch(batch, count):
    shop = Shop(batch)
    assert shop.run(count) == [(item, value(item)) for item in range(count)]
    assert sum(shop.batches) == count and max(shop.batches, default=0) <= batch
    if batch > 1 and count == 40:
        assert len(shop.batches) < 40, "pictures of one shape were put together"


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fault_is_its_pictures_alone(batch):
    bad = [("read", 3), ("encode", 6), ("finish", 11)]
    found = dict(Shop(batch, bad=bad).run(20))
    for item in range(20):
        if item in (3, 6, 11):
            assert isinstance(found[item], UserError)
        else:
            assert found[item] == value(item)
    assert "does not fit into memory" in str(found[6])


@pytest.mark.parametrize(
    "error", [OSError(28, "no space"), ForeignFileError("x"), ValueError("a fault of ours")]
)
def test_what_is_no_fault_of_a_picture_is_raised(error):
    def finish(item, encoded):
        raise error

    engine = Engine(lambda item: np.zeros((1, 1)), list, finish)
    with pytest.raises(type(error)), closing(engine.run(range(3))) as results:
        list(results)
    with pytest.raises(type(error)):
        engine.one(0)


def test_one_item_in_this_thread():
    shop = Shop(bad=[("read", 2)])
    assert shop.engine.one(4) == value(4)
    assert str(shop.engine.one(2)) == "2 cannot be read"


def test_what_waits_does_not_grow_with_the_pictures():
    shops = [Shop(batch=2, workers=2) for _ in range(2)]
    shops[0].run(60)
    shops[1].run(600)
    assert shops[1].most <= 40
