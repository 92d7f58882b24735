"""Word vectors in memory."""

import numpy as np

from clip_support import tiny_clip
from denseclip.text import TEMPLATES_1, ClassPrompts, embed_classes
from denseclip.web.model_server import MemoryCache


def rows(*names):
    return {name.encode(): np.zeros(2, np.float32) for name in names}


def test_what_was_loaded_can_be_changed_freely():
    cache = MemoryCache(10)
    cache.store("g", rows("a"))
    cache.load("g").update(rows("b"))
    assert set(cache.load("g")) == {b"a"}
    assert cache.load("other") == {}


def test_the_oldest_rows_go_first():
    cache = MemoryCache(4)
    cache.store("one", rows("a", "b"))
    cache.store("two", rows("c", "d"))
    cache.store("one", rows("e"))
    assert set(cache.load("two")) == {b"d"}
    assert set(cache.load("one")) == {b"a", b"b", b"e"}
    cache.store("one", rows("f", "g", "h", "i"))
    assert set(cache.load("one")) == {b"f", b"g", b"h", b"i"}
    assert cache.load("two") == {}


def test_words_are_embedded_once(monkeypatch, tmp_path):
    monkeypatch.setenv("DENSECLIP_CACHE", str(tmp_path / "disk"))
    clip, cache = tiny_clip("rn"), MemoryCache(100)
    first = embed_classes(clip, ClassPrompts.parse("cat, dog"), TEMPLATES_1, cache=cache)
    asked = []
    encode = clip.encode_text
    monkeypatch.setattr(type(clip), "encode_text", lambda self, s: asked.extend(s) or encode(s))
    again = embed_classes(clip, ClassPrompts.parse("dog, cow, cat"), TEMPLATES_1, cache=cache)
    assert asked == ["a photo of a cow."]
    assert (again.matrix[0] == first.matrix[1]).all()
    assert not (tmp_path / "disk").exists()
