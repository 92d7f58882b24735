"""`denseclip label` as a user meets it."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cli_support import run
from clip_support import write_embedded
from denseclip.outputs import HOME


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_embedded(folder / "tiny", "vit")
    return folder / "tiny"


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.png", "sub/a.jpg"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return tmp_path / "in"


FAST = ("--templates", "1", "--resize", "short:64")
WORDS = ("--classes", "cat, red car|automobile, grass")


def test_a_folder_becomes_a_data_set(capsys, model, pictures, tmp_path):
    out = tmp_path / "out"
    command = (
        "label", pictures, *WORDS, "-m", model, "-o", out, *FAST, "-f", "png,coco-polygons", "--overlays",
        "--confidence", "pixels", "--min-area", 5,
    )  # fmt: skip
    ran = run(capsys, *command)
    assert ran.code == 0, ran.err
    assert "2 pictures" in ran.out
    for name in ("a", "sub/a"):
        with Image.open(out / "masks" / f"{name}.png") as mask:
            assert mask.size == (60, 40)
        assert (out / "overlays" / f"{name}.jpg").exists()
        assert (out / "confidence" / f"{name}.png").exists()
    assert (out / "contact-sheet.jpg").exists()
    coco = json.loads((out / "coco-polygons.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.png", "sub/a.jpg"]
    assert [category["name"] for category in coco["categories"]] == ["cat", "red car", "grass"]
    assert json.loads((out / "summary.json").read_text())["labeled"] == 2
    assert run(capsys, *command).code == 0
    other = run(capsys, *command, "--flip")
    assert other.code == 2
    assert other.err.count("\n") == 1
    assert "results made with other settings" in other.err
    assert run(capsys, *command, "--flip", "--overwrite").code == 0


def test_bad_pictures_change_the_exit_code(capsys, model, pictures, tmp_path):
    (pictures / "torn.jpg").write_bytes((pictures / "sub" / "a.jpg").read_bytes()[:300])
    ran = run(capsys, "label", pictures, *WORDS, "-m", model, "-o", tmp_path / "out", *FAST)
    assert ran.code == 1
    assert ran.out.count("skipped") == 1
    assert "torn.jpg is cut short or damaged" in ran.out.replace("\n", " ")


def test_an_ontology_file_and_a_list(capsys, model, pictures, tmp_path):
    (tmp_path / "words.json").write_text(json.dumps({"vehicle": ["car", "bus"], "plant": "grass"}))
    (tmp_path / "list.txt").write_text("in/a.png\n")
    ran = run(
        capsys, "label", tmp_path / "list.txt", "--classes", tmp_path / "words.json", "-m", model,
        "-o", tmp_path / "out", *FAST,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == {
        "0": "background", "1": "vehicle", "2": "plant"
    }  # fmt: skip
    assert (tmp_path / "out" / "masks" / "in" / "a.png").exists()


BAD = [
    ((), "no words are given"),
    ((*WORDS, "--format", "cocos"), "format 'cocos' is unknown"),
    ((*WORDS, "--engine", "spark"), "engine 'spark' is unknown"),
    ((*WORDS, "--confidence", "yes"), "confidence 'yes' is unknown"),
    ((*WORDS, "--min-confidence", "3"), "min-confidence 3 is no probability"),
    ((*WORDS, "--min-area", "-1"), "min-area -1"),
    (("--classes", "a:b", "--format", "voc"), "'a:b' cannot be in format voc"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: " ".join(value)[:40])
def test_mistakes_are_one_line_and_leave_nothing(capsys, model, pictures, tmp_path, arguments, message):
    ran = run(capsys, "label", pictures, *arguments, "-m", model, *FAST, "--out", tmp_path / "out")
    assert ran.code == 2
    assert message in ran.err
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_nothing_to_label(capsys, model, tmp_path):
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", tmp_path / "nowhere", tmp_path / "none.json"):
        ran = run(capsys, "label", source, *WORDS, "-m", model, "-o", tmp_path / "out")
        assert ran.code == 2
        assert ran.err.count("\n") == 1


@pytest.mark.slow
def test_ray_makes_the_same_files(capsys, model, pictures, tmp_path):
    pytest.importorskip("ray")
    for number in range(6):
        shutil.copy(pictures / "a.png", pictures / f"b{number}.png")
    for engine in ("local", "ray"):
        command = ("label", pictures, *WORDS, "-m", model, "-o", tmp_path / engine, *FAST, "-f", "png,coco")
        ran = run(capsys, *command, "--engine", engine)
        assert ran.code == 0, ran.err
    files = [  # but the folders' own lists, one for each process
        sorted(p for p in (tmp_path / engine).rglob("*") if p.is_file() and HOME not in p.parts)
        for engine in ("local", "ray")
    ]
    assert [p.relative_to(tmp_path / "local") for p in files[0]] == [
        p.relative_to(tmp_path / "ray") for p in files[1]
    ]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))


def test_kinds_that_are_not_read_are_told(capsys, model, pictures, tmp_path):
    for name in ("c.heic", "d.HEIC", "e.cr2"):
        (pictures / name).write_bytes(b"x")
    ran = run(capsys, "label", pictures, *WORDS, "-m", model, "-o", tmp_path / "out", *FAST)
    assert ran.code == 0, ran.err
    assert "not read: 1 .cr2, 2 .heic" in " ".join((ran.out + ran.err).split())
