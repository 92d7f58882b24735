"""Trees of the archives' layout become what the loader reads, once, whole, and in any number of runs."""

import numpy as np
import pytest
from dataset_trees import SHAPE, TREES, ids, mask, sbd, voc
from PIL import Image

from denseclip.data.opening import open_dataset
from denseclip.data.prepare import prepare
from denseclip.errors import UserError

EXPECTED = {  # the val mask after preparation and reading: its most frequent value, then those set one by one
    "voc20": (255, 0, 19, 255),
    "voc21": (0, 1, 20, 255),
    "context59": (255, 255, 0, 1, 58, 255, 5),
    "context60": (0, 0, 1, 2, 59, 0, 6),
    "coco-stuff": (170, 0, 10, 11, 79, 80, 255),
    "coco-object": (0, 1, 11, 12, 80, 0, 0),
    "ade20k": (255, 0, 149),
    "cityscapes": (255, 0, 18, 2, 255),
}


@pytest.mark.parametrize("name", TREES)
def test_prepared_trees_are_read(name, tmp_path):
    TREES[name](tmp_path)
    first = prepare(name, tmp_path)
    assert not first.failed
    dataset = open_dataset(name, tmp_path)
    assert len(dataset) == 1
    sample = dataset[0]
    assert sample.image.shape == (*SHAPE, 3)
    assert sample.mask.dtype == np.uint8
    np.testing.assert_array_equal(sample.mask, ids(*EXPECTED[name]))
    assert len(open_dataset(name, tmp_path, "train")) >= 1
    again = prepare(name, tmp_path)
    assert (again.written, again.kept) == (0, first.written)


def test_voc_lists_are_the_union_without_val(tmp_path):
    home = voc(tmp_path)
    result = prepare("voc20", tmp_path)
    assert result.written == 4
    read = {path.stem: path.read_text().split() for path in result.lists}
    assert read == {"trainaug": ["2007_1", "2007_2", "2008_4", "2008_5"], "aug": ["2008_4", "2008_5"]}
    train = open_dataset("voc20", tmp_path, "train")
    assert [entry.image_id for entry in train.entries] == ["2007_1", "2007_2", "2008_4", "2008_5"]
    assert train.entries[1].mask.path.parent.name == "SegmentationClass"
    assert train.entries[2].mask.path.parent.name == "SegmentationClassAug"
    np.testing.assert_array_equal(np.asarray(Image.open(train.entries[2].mask.path)), ids(0, 15, 3))
    assert train[2].mask.flat[0] == 14
    assert home in train.entries[0].image.parents


def test_context_lists_leave_out_images_without_labels(tmp_path):
    TREES["context59"](tmp_path)
    prepare("context59", tmp_path)
    assert [e.image_id for e in open_dataset("context60", tmp_path, "train").entries] == ["2008_1"]


def test_an_interrupted_run_goes_on_and_leaves_nothing_half(tmp_path):
    home = voc(tmp_path)
    seen = []

    def stop(done, total):
        seen.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("voc20", tmp_path, progress=stop)
    assert len(list((home / "SegmentationClassAug").iterdir())) == 2
    again = prepare("voc20", tmp_path)
    assert (again.written, again.kept) == (2, 2)
    assert seen == [(0, 4), (1, 4), (2, 4)]
    assert not list(home.rglob("*.tmp*"))


def test_processes_write_the_same_files(tmp_path):
    for workers in (1, 2):
        voc(tmp_path / str(workers))
        assert prepare("voc20", tmp_path / str(workers), workers=workers).written == 4
    one, two = (sorted((tmp_path / str(k)).rglob("SegmentationClassAug/*.png")) for k in (1, 2))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert len(one) == 4


def test_damaged_files_are_told_and_do_not_stop_the_rest(tmp_path):
    home = voc(tmp_path)
    source = tmp_path / "VOCdevkit/VOCaug/dataset/cls/2008_4.mat"
    source.write_bytes(source.read_bytes()[:200])
    result = prepare("voc20", tmp_path)
    assert result.written == 3
    assert len(result.failed) == 1
    assert "2008_4.mat" in result.failed[0]
    assert "fetch it again" in result.failed[0]
    assert not (home / "SegmentationClassAug/2008_4.png").exists()
    sbd(source, ids(0, 4))
    assert prepare("voc20", tmp_path).written == 1


def test_ids_that_the_data_set_does_not_have_are_told(tmp_path):
    home = TREES["coco-stuff"](tmp_path)
    mask(home / "annotations/val2017/000000000139.png", ids(0, 11))
    result = prepare("coco-stuff", tmp_path)
    assert [("000000000139.png has id 11" in message) for message in result.failed] == [True]


@pytest.mark.parametrize(
    ("name", "removed", "words"),
    [
        ("voc20", "VOCdevkit/VOCaug/dataset/cls", "benchmark.tgz"),
        ("voc20", "VOCdevkit/VOCaug/dataset/train.txt", "benchmark.tgz"),
        ("voc20", "VOCdevkit", "no folder .*VOC2012.*VOCtrainval_11-May-2012.tar"),
        ("context59", "VOCdevkit/VOC2010/trainval", "trainval.tar.gz"),
        ("context59", "VOCdevkit/VOC2010/ImageSets", "no list .*Main/train.txt"),
        ("coco-stuff", "coco_stuff164k/annotations", "stuffthingmaps_trainval2017.zip"),
        ("cityscapes", "cityscapes/gtFine", "gtFine_trainvaltest.zip"),
        ("ade20k", "ade", "ADEChallengeData2016.zip"),
    ],
)
def test_missing_archives_are_named(name, removed, words, tmp_path):
    TREES[name](tmp_path)
    (tmp_path / removed).rename(tmp_path / "away")
    with pytest.raises(UserError, match=words) as caught:
        prepare(name, tmp_path)
    assert "\n" not in str(caught.value)


def test_sticker_sets_need_none(tmp_path):
    with pytest.raises(UserError, match="stickers20 needs no preparation"):
        prepare("stickers20", tmp_path)


def test_unknown_names_and_roots(tmp_path):
    with pytest.raises(UserError, match="unknown data set 'voc22': did you mean voc21"):
        prepare("voc22", tmp_path)
    with pytest.raises(UserError, match=r"no folder .*nowhere: create it"):
        prepare("voc20", tmp_path / "nowhere")
