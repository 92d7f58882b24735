"""Archives of the official layout, unpacked by the commands that users are told, prepared and read."""

import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dataset_trees import TREES, context, instances, lines

from cli_support import run
from denseclip.data.check import check
from denseclip.data.open_things import open_things
from denseclip.data.opening import open_dataset
from denseclip.data.prepare import prepare
from denseclip.reproduce.needs import archives

INSIDE = {  # what the official archives hold: where it is in a tree, and where it is in the archive
    "VOCtrainval_11-May-2012.tar": {"VOCdevkit/VOC2012": "VOCdevkit/VOC2012"},
    "benchmark.tgz": {"VOCdevkit/VOCaug/dataset": "benchmark_RELEASE/dataset"},
    "VOCtrainval_03-May-2010.tar": {
        "VOCdevkit/VOC2010/JPEGImages": "VOCdevkit/VOC2010/JPEGImages",
        "VOCdevkit/VOC2010/ImageSets": "VOCdevkit/VOC2010/ImageSets",
    },
    "trainval.tar.gz": {"VOCdevkit/VOC2010/trainval": "trainval"},
    "stuffthingmaps_trainval2017.zip": {
        "coco_stuff164k/annotations/train2017": "train2017",
        "coco_stuff164k/annotations/val2017": "val2017",
    },
    "annotations_trainval2017.zip": {"coco/annotations": "annotations"},
    "ADEChallengeData2016.zip": {"ade/ADEChallengeData2016": "ADEChallengeData2016"},
    "leftImg8bit_trainvaltest.zip": {"cityscapes/leftImg8bit": "leftImg8bit"},
    "gtFine_trainvaltest.zip": {"cityscapes/gtFine": "gtFine"},
}


def inside(file, data):
    """COCO's pictures are in one archive, which is unpacked in two places."""
    if file not in ("train2017.zip", "val2017.zip"):
        return INSIDE[file]
    split = file.removesuffix(".zip")
    return {f"coco/{split}" if data == "coco" else f"coco_stuff164k/images/{split}": split}


def pack(path, tree, content):
    """Write an archive of folders of a tree."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for place, name in content.items():
                for file in sorted((tree / place).rglob("*")):
                    archive.write(file, f"{name}/{file.relative_to(tree / place).as_posix()}")
        return
    with tarfile.open(path, "w:gz" if path.suffix in (".tgz", ".gz") else "w") as archive:
        for place, name in content.items():
            archive.add(tree / place, name)


def unpacked(name, tmp_path, make):
    """A root with nothing but what the commands have unpacked there."""
    tree, root = tmp_path / "tree", tmp_path / "root"
    make(tree)
    root.mkdir()
    for archive in archives():
        if name in archive["data"]:
            pack(root / archive["file"], tree, inside(archive["file"], name))
            subprocess.run(archive["unpack"], cwd=root, check=True, shell=True, capture_output=True)
    return root


@pytest.mark.parametrize("name", TREES)
def test_archives_are_unpacked_prepared_and_read(name, tmp_path):
    shutil.which("unzip") or pytest.skip("the commands need unzip")
    root = unpacked(name, tmp_path, TREES[name])
    assert not prepare(name, root).failed
    for split in ("train", "val"):
        dataset = open_dataset(name, root, split)
        assert len(dataset) >= 1
        for sample in dataset:
            assert sample.mask.shape == sample.image.shape[:2]
            assert (np.unique(sample.mask) < len(dataset.spec.classes)).any()
    expected = {split: sum(part.size for part in parts) for split, parts in dataset.spec.splits.items()}
    for one in check(name, root):
        assert not (one.problem or one.missing or one.bad)
        assert one.expected == expected[one.split] and not one.ok, "a miniature is not the whole"


def test_coco_for_detection_is_unpacked_and_read(tmp_path):
    shutil.which("unzip") or pytest.skip("the commands need unzip")
    root = unpacked("coco", tmp_path, instances)
    for split, expected in (("train", 118_287), ("val", 5_000)):
        dataset = open_things("coco", root, split)
        assert len(dataset) and dataset[0].image.ndim == 3
        one = next(one for one in check("coco", root) if one.split == split)
        assert one.expected == expected and not (one.problem or one.missing or one.bad)


def test_the_archives_of_every_published_set_are_known():
    assert {name for archive in archives() for name in archive["data"]} == {*TREES, "coco"}
    assert all(
        set(archive) <= {"data", "train", "file", "where", "gigabytes", "unpack"} for archive in archives()
    )


def test_lists_have_the_published_numbers(tmp_path):
    """VOC's lists and SBD's, of their real lengths and with as many images in both."""
    home = TREES["voc20"](tmp_path)
    names = [f"2009_{k:06d}" for k in range(12_031)]
    voc_train, voc_val, others = names[:1464], names[1464 : 1464 + 1449], names[1464 + 1449 :]
    assert len(others) == 9118
    lines(home / "ImageSets/Segmentation/train.txt", *voc_train)
    lines(home / "ImageSets/Segmentation/val.txt", *voc_val)
    boundaries = tmp_path / "VOCdevkit/VOCaug/dataset"
    lines(boundaries / "train.txt", *others[:7000], *voc_train[:800])
    lines(boundaries / "val.txt", *others[7000:], *voc_val[:700], *voc_train[800:1000])
    prepare("voc20", tmp_path)
    assert len((home / "ImageSets/Segmentation/aug.txt").read_text().split()) == 9118
    assert len((home / "ImageSets/Segmentation/trainaug.txt").read_text().split()) == 10582
    assert len(open_dataset("voc20", tmp_path, "train")) == 10582
    assert len(open_dataset("voc20", tmp_path, "val")) == 1449


def test_lists_of_context_leave_out_what_is_not_labeled(tmp_path):
    """4,998 and 5,105 of VOC 2010's 10,103 images that have labels; a list may name more."""
    home = context(tmp_path)
    labeled = [f"2008_{k:06d}" for k in range(10_103)]
    for path in (home / "trainval").iterdir():
        path.unlink()
    for name in labeled:
        (home / "trainval" / f"{name}.mat").touch()
    lines(home / "ImageSets/Main/train.txt", *labeled[:4998], "2010_000001")
    lines(home / "ImageSets/Main/val.txt", *labeled[4998:], "2010_000002")
    result = prepare("context59", tmp_path)
    assert len(result.failed) == 10_103, "empty files are no label maps"
    assert len(open_dataset("context59", tmp_path, "train")) == 4998
    assert len(open_dataset("context60", tmp_path, "val")) == 5105


# ---- half-unpacked archives


def test_masks_that_are_missing_are_told_by_prepare(capsys, tmp_path):
    """A tar that stopped: SBD's lists name images whose masks are not there."""
    TREES["voc20"](tmp_path)
    (tmp_path / "VOCdevkit/VOCaug/dataset/cls/2008_5.mat").unlink()
    ran = run(capsys, "data", "prepare", "voc20", tmp_path, "--workers", "1")
    assert ran.code == 1
    (line,) = (line for line in ran.out.splitlines() if line.startswith("train: "))
    assert "1 files are missing" in line and "2008_5.png" in line
    assert line.endswith("unpack its archives again, then prepare voc20 again")


def test_pictures_that_are_missing_are_counted_by_prepare(capsys, tmp_path):
    home = TREES["ade20k"](tmp_path)
    (home / "images/training/ADE_train_00000002.jpg").unlink()
    ran = run(capsys, "data", "prepare", "ade20k", tmp_path, "--workers", "1")
    assert ran.code == 0
    assert "train: 1 images, but 20,210 are published: unpack its archives again" in ran.out
    assert "val: 1 images, but 2,000 are published" in ran.out


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("voc20", "VOCdevkit/VOCaug/dataset/cls/2008_4.mat"),
        ("context59", "VOCdevkit/VOC2010/trainval/2008_1.mat"),
        ("coco-stuff", "coco_stuff164k/annotations/val2017/000000000139.png"),
        ("cityscapes", "cityscapes/gtFine/val/frankfurt/frankfurt_000000_000019_gtFine_labelIds.png"),
    ],
)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_files_that_were_cut_are_named_and_not_converted(name, file, share, tmp_path):
    TREES[name](tmp_path)
    path = tmp_path / file
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    (message,) = prepare(name, tmp_path).failed
    assert Path(file).name in message and "\n" not in message
    assert message.endswith(("fetch it again", "replace the file"))
    path.write_bytes(content)
    assert prepare(name, tmp_path).written == 1
