"""Names of outputs: never twice, never outside the folder."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from denseclip.errors import UserError
from denseclip.label.sources import Item, named


def names(*files):
    return [item.name for item in named([Item(file, file) for file in files])]


def test_names_mirror_the_source():
    assert names("a.jpg", "sub/a.jpg", "sub/b.tar.png") == ["a", "sub/a", "sub/b.tar"]


def test_one_stem_with_two_suffixes_keeps_them():
    assert names("a.jpg", "a.png", "A.gif", "b.png") == ["a.jpg", "a.png", "A.gif", "b"]
    assert names("a.jpg", "a.jpg", "a.jpg") == ["a.jpg", "a.jpg~2", "a.jpg~3"]
    assert len(set(names("a.jpg", "a.png", "a.jpg.png", "a.jpg~2", "a.jpg"))) == 5


@example(["..:", "a/..:"])
@given(st.lists(st.text("aA./\\:~ .jpg\x00", max_size=8), max_size=6))
def test_names_are_unique_and_stay_in_the_folder(files):
    made = names(*files)
    assert len({name.casefold() for name in made}) == len(files)
    for name in made:
        parts = name.split("/")
        assert name and not {"", ".", ".."} & set(parts) and not any(ord(c) < 32 or c in ':\\"' for c in name)


def test_an_item_survives_its_line():
    item = Item("ä/b.jpg", "x.tar", 512, 9, 3, "torn", "ä/b")
    assert Item.parse(item.line()) == item


def test_bytes_that_cannot_be_had(tmp_path):
    for item in (Item("a", str(tmp_path / "none")), Item("a", str(tmp_path)), Item("a", "x", problem="torn")):
        with pytest.raises(UserError) as caught:
            item.content()
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="GiB"):
        Item("a", "x.tar", 0, 1 << 40).content()


def test_names_that_no_disk_takes_are_shortened():
    long = ["x" * 300 + ".png", "x" * 301 + ".png", "/".join(["deep"] * 900) + ".png", "\udcff.png"]
    made = names(*long)
    assert len(set(made)) == 4
    assert all(len(part.encode()) <= 220 for name in made for part in name.split("/"))
    assert all(len(name.encode()) <= 1000 for name in made)
