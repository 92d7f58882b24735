"""Everything that can be a source, and what is not."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from denseclip.errors import UserError
from denseclip.label.sources import list_items
from label_support import write_pictures

fsspec = pytest.importorskip("fsspec")


def files(source, **options):
    return [item.file for item in list_items(str(source), **options)]


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "in", 5)


ALL = ["p000.png", "p001.png", "p002.png", "sub/p000.png", "sub/p001.png"]


def test_folders_patterns_and_single_pictures(pictures):
    assert files(pictures) == ALL
    assert files(f"{pictures}/**/p000.png") == ["p000.png", "sub/p000.png"]
    assert files(f"{pictures}/s*/*.png") == ["sub/p000.png", "sub/p001.png"]
    assert files(pictures / "p001.png") == ["p001.png"]


def test_the_output_is_no_input(pictures):
    out = write_pictures(pictures / "labels", 2)
    assert files(pictures, leave_out=out) == ALL


def test_lists(pictures, tmp_path, monkeypatch):
    (tmp_path / "in" / "list.txt").write_text("# some\np001.png\n\nsub/p000.png\nmissing.png\n")
    items = list_items(str(tmp_path / "in" / "list.txt"))
    assert [item.file for item in items] == ["p001.png", "sub/p000.png", "missing.png"]
    assert items[0].read().shape[2] == 3
    (tmp_path / "list.txt").write_text("p001.png\n../in/p001.png\n../in/other.png")
    assert [item.name for item in list_items(str(tmp_path / "list.txt"), images=str(pictures))] == [
        "p001",
        "in/other",
    ]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.txt").write_text("in/p000.png")
    assert list_items("lists/list.txt")[0].read().ndim == 3


def test_coco_files_keep_their_ids(pictures, tmp_path):
    images = [{"id": 7, "file_name": "sub/p000.png"}, {"id": 3, "file_name": "p001.png"}]
    (pictures / "coco.json").write_text(json.dumps({"images": images}))
    items = list_items(str(pictures / "coco.json"))
    assert [(item.number, item.file) for item in items] == [(3, "p001.png"), (7, "sub/p000.png")]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images}))
    assert list_items(str(tmp_path / "coco.json"), images=str(pictures))[1].read().ndim == 3


def write_shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def png(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((30, 40, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_shards_in_webdatasets_naming(tmp_path):
    for number in range(2):
        write_shard(
            tmp_path / f"train-{number:03d}.tar",
            {
                "x/0001.png": png(10 + number),
                "x/0001.seg.png": png(1),
                "x/0001.json": b"{}",
                "x/0002.png": png(20),
            },
        )
    items = list_items(str(tmp_path / "train-{000..001}.tar"))
    assert [item.name for item in items] == [
        f"train-{number:03d}/x/{key}" for number in range(2) for key in ("0001", "0002")
    ]
    assert items == list_items(str(tmp_path / "train-*.tar"))
    assert [int(item.read()[0, 0, 0]) for item in items] == [10, 20, 11, 20]


def test_a_shard_cut_short_gives_what_is_whole_and_says_so(tmp_path):
    write_shard(tmp_path / "a.tar", {f"{k}.png": png(k) for k in range(4)})
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(content[:2600])
    items = list_items(str(tmp_path / "a.tar"))
    assert 1 <= len(items) - 1 <= 3
    for item in items[:-1]:
        item.read()
    with pytest.raises(UserError, match=r"a\.tar is damaged after \d pictures"):
        items[-1].read()


def test_addresses(pictures, tmp_path):
    memory = fsspec.filesystem("memory")
    for name in ALL:
        memory.pipe(f"/box/{name}", (pictures / name).read_bytes())
    memory.pipe("/box/list.txt", b"sub/p000.png\nmemory://box/p001.png\n")
    memory.pipe("/box/coco.json", json.dumps({"images": [{"id": 1, "file_name": "p002.png"}]}).encode())
    write_shard(tmp_path / "s.tar", {"1.png": png(5)})
    memory.pipe("/shards/s.tar", (tmp_path / "s.tar").read_bytes())
    assert files("memory://box") == ALL
    assert files("memory://box/sub/*.png") == ["p000.png", "p001.png"]
    assert files("memory://box/list.txt") == ["sub/p000.png", "box/p001.png"]
    for source in (
        "memory://box",
        "memory://box/list.txt",
        "memory://box/coco.json",
        "memory://shards/*.tar",
    ):
        for item in list_items(source):
            assert item.read().shape[2] == 3
    import shutil

    shutil.make_archive(str(tmp_path / "all"), "zip", pictures)
    items = list_items(f"zip://::{tmp_path}/all.zip")
    assert [item.file for item in items] == ALL
    assert (items[3].read() == list_items(str(pictures))[3].read()).all()


BAD = [
    ("nothing-here", "there is no picture nothing-here"),
    ("memory://nowhere", "nothing at memory://nowhere"),
    ("nosuch://x/y", "nosuch"),
    ("none.txt", "none.txt cannot be read"),
    ("none.json", "none.json cannot be read"),
    ("none.tar", "none.tar cannot be read"),
    ("none-*.tar", "no shard matches"),
    ("a.tar.gz", "compressed"),
]


@pytest.mark.parametrize(("source", "message"), BAD)
def test_what_is_no_source_is_said_in_one_line(source, message):
    with pytest.raises(UserError) as caught:
        list_items(source)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"images": 3}', b'{"images": [{}]}', b"\xff\xfe", b"[" * 5000, b'{"images": []}',
     b'{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}',
     b'{"images": [{"id": [], "file_name": "a"}]}', b'{"images": [{"id": 1, "file_name": "a\\u0000"}]}'],
)  # fmt: skip
def test_damaged_lists(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        list_items(str(tmp_path / "x.json"))
    assert "\n" not in str(caught.value)
    (tmp_path / "x.txt").write_bytes(content)
    try:
        items = list_items(str(tmp_path / "x.txt"))
    except UserError:
        return
    for item in items:
        with pytest.raises(UserError):
            item.read()


def test_a_missing_picture_is_told_with_its_line(pictures, tmp_path):
    (tmp_path / "list.txt").write_text("# of today\n\nnot-here.jpg\n")
    (item,) = list_items(str(tmp_path / "list.txt"))
    with pytest.raises(UserError, match=r"there is no picture .*not-here\.jpg; mend line 3 of .*list\.txt"):
        item.read()
