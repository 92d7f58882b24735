"""Visitors come and go."""

import pytest

from denseclip.web import session as module
from denseclip.web.request import Limits
from denseclip.web.session import SessionEndedError, Sessions
from web_support import noise, shared


def test_each_visitor_has_a_picture_of_their_own():
    visitors = Sessions(shared(), Limits())
    one, two = visitors.open(), visitors.open()
    assert one != two
    assert len(one) > 30
    visitors.get(one).show("one.png", noise())
    assert visitors.get(two).picture is None
    assert visitors.get(one).picture.name == "one.png"


def test_unknown_tokens_are_refused():
    visitors = Sessions(shared(), Limits())
    for token in ("", "new", "0" * 43):
        with pytest.raises(SessionEndedError, match="has ended"):
            visitors.get(token)


def test_the_longest_unused_is_forgotten_when_there_are_too_many():
    visitors = Sessions(shared(), Limits(sessions=3))
    tokens = [visitors.open() for _ in range(3)]
    visitors.get(tokens[0])
    visitors.open()
    assert len(visitors) == 3
    visitors.get(tokens[0])
    with pytest.raises(SessionEndedError):
        visitors.get(tokens[1])


def test_pictures_are_bounded_together():
    visitors = Sessions(shared(), Limits(all_pixels=2 * 40 * 60))
    tokens = [visitors.open() for _ in range(3)]
    for token in tokens:
        visitors.get(token).show("noise.png", noise())
        visitors.sweep()
    with pytest.raises(SessionEndedError):
        visitors.get(tokens[0])
    assert all(visitors.get(token).pixels == 2400 for token in tokens[1:])


def test_one_large_picture_does_not_end_its_own_session():
    visitors = Sessions(shared(), Limits(all_pixels=10))
    token = visitors.open()
    visitors.get(token).show("noise.png", noise())
    visitors.sweep()
    assert visitors.get(token).picture is not None


def test_idle_visitors_are_forgotten(monkeypatch):
    visitors = Sessions(shared(), Limits(idle=100))
    token = visitors.open()
    now = module.time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now + 99)
    visitors.get(token)
    monkeypatch.setattr(module.time, "monotonic", lambda: now + 300)
    with pytest.raises(SessionEndedError):
        visitors.get(token)
    visitors.open()
    assert len(visitors) == 1
