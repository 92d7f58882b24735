"""What `check` finds, split by split."""

import pytest
from dataset_trees import TREES, ids, mask, voc
from test_datasets import own

from denseclip.data.check import check
from denseclip.data.prepare import prepare
from denseclip.errors import UserError


def by_split(found):
    return {each.split: each for each in found}


def test_a_tree_that_is_not_prepared_says_what_to_run(tmp_path):
    voc(tmp_path)
    found = by_split(check("voc20", tmp_path))
    assert "run `denseclip data prepare voc20 ROOT`" in found["train"].problem
    assert found["val"].problem is None
    assert (found["val"].images, found["val"].expected) == (1, 1449)
    assert not found["val"].missing
    assert not found["val"].bad
    assert not found["val"].ok  # 1 image is not the published split


def test_missing_and_unusable_files_are_listed(tmp_path):
    home = voc(tmp_path)
    prepare("voc20", tmp_path)
    (home / "JPEGImages/2007_1.jpg").unlink()
    (home / "SegmentationClass/2007_2.png").unlink()
    (home / "JPEGImages/2008_4.jpg").write_bytes(b"broken")
    mask(home / "SegmentationClassAug/2008_5.png", ids(0, 21))
    told = []
    train = by_split(check("voc20", tmp_path, progress=lambda *counts: told.append(counts)))["train"]
    assert [path.name for path in train.missing] == ["2007_1.jpg", "2007_2.png"]
    assert len(train.bad) == 2
    assert "2008_4.jpg" in train.bad[0]
    assert "2008_5.png has id 21" in train.bad[1]
    assert (4, 4) in told
    quick = by_split(check("voc20", tmp_path, quick=True))["train"]
    assert (quick.missing, quick.bad) == (train.missing, ())


def test_own_data_is_checked_by_its_splits(tmp_path):
    own(tmp_path)
    (whole,) = check(tmp_path)
    assert (whole.split, whole.images, whole.expected, whole.ok) == ("all", 2, None, True)
    (tmp_path / "val.txt").write_text("a\n")
    own(tmp_path, splits={"val": "val.txt", "test": "test.txt"})
    found = by_split(check(tmp_path))
    assert found["val"].ok
    assert found["test"].problem.startswith("no list")


def test_no_data_at_all(tmp_path):
    found = check("ade20k", tmp_path)
    assert all("ADEChallengeData2016.zip" in each.problem for each in found)
    with pytest.raises(UserError, match="unknown data set"):
        check("ade", tmp_path)


def test_every_tree_reads_after_preparation(tmp_path):
    for name in ("ade20k", "coco-object", "cityscapes", "context60"):
        TREES[name](tmp_path)
        prepare(name, tmp_path)
        assert all(not (each.missing or each.bad or each.problem) for each in check(name, tmp_path))
