"""`denseclip distill` on a folder as folders are; `denseclip export` of what comes out."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import denseclip
from cli_support import call, run
from denseclip.data.datasets import UNLABELED
from denseclip.data.stickers import render
from denseclip.models.portable import Exported, free_sizes
from denseclip.train.distillation import distill_recipe
from denseclip.train.maskclip_plus import build_maskclip_plus
from denseclip.train.pseudo_labels import PseudoLabelInputs, assign_labels
from denseclip.train.training import open_training_data

BROKEN = ["empty.jpg", "text.png", "torn.jpg"]
WORDS = ["-c", "cat, dog, grass|lawn"]
SMALL = ["--from-scratch"]
for change in (
    "batch=4",
    "workers=0",
    "augment.crop=[32, 32]",
    "augment.resize=short:64",
    "student.backbone=resnet18",
    "student.output_stride=16",
):
    SMALL += ["--set", change]


def scene(index):
    return Image.fromarray(render("tests/distill", index, side=96).image)


def fill(folder):
    """Good pictures of all kinds, and three broken files."""
    scene(0).save(folder / "plain.jpg")
    scene(1).convert("L").save(folder / "gray.png")
    scene(2).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.asarray(scene(3).convert("L"), np.uint16) * 257).save(folder / "deep.png")
    scene(4).convert("RGBA").save(folder / "alpha.png")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("no picture")
    (folder / "torn.jpg").write_bytes((folder / "plain.jpg").read_bytes()[:900])
    return folder


def skipped_in(run_folder, folder):
    lines = (run_folder / "skipped.txt").read_text().splitlines()
    return sorted(path.name for line in lines for path in folder.iterdir() if f"{path} " in line)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def distilled(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    assert call("distill", folder, *WORDS, "-o", out, "--steps", 4, *SMALL) == 0
    return out


def test_it_trains_and_lists_what_it_skipped(distilled, folder):
    assert skipped_in(distilled, folder) == BROKEN
    report = (distilled / "report.md").read_text()
    assert "torn.jpg" in report and "denseclip segment PICTURES --model" in report
    assert sum(1 for _ in (distilled / "report").glob("*.png")) >= 3


def test_an_onnx_file_that_is_not_ours_stays(folder, tmp_path):
    (tmp_path / "model.onnx").write_text("mine")
    for _ in range(2):
        assert call("distill", folder, *WORDS, "-o", tmp_path, "--steps", 2, *SMALL) == 0
        assert (tmp_path / "model.onnx").read_text() == "mine"


def test_held_out_pictures_are_not_trained_on(tmp_path):
    from denseclip.train.recipe import DataPart
    from denseclip.train.training import open_training_data

    for index in range(21):
        scene(index).save(tmp_path / f"{index:02}.png")
    part = DataPart(train=str(tmp_path), classes="cat", holdout=10)
    kept, held = (open_training_data(part, None, held_out=one).entries for one in (False, True))
    assert [entry.image.stem for entry in held] == ["09", "19"]
    assert len(kept) == 19 and not set(kept) & set(held)


def test_the_script_runs_the_onnx_file_without_torch(distilled, folder, tmp_path):
    pytest.importorskip("onnxruntime")
    lines = (distilled / "segment_onnx.py").read_text()
    assert len(lines.splitlines()) <= 20
    blocked = "import sys\nsys.modules['torch'] = sys.modules['denseclip'] = None\n"
    arguments = [distilled / "model.onnx", folder / "plain.jpg", tmp_path / "mask.png"]
    done = subprocess.run([sys.executable, "-c", blocked + lines, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cat" in done.stdout and Image.open(tmp_path / "mask.png").size == (96, 96)
    assert "| same class, 5 pictures that it was trained on |" in (distilled / "report.md").read_text()


@pytest.mark.parametrize("kind", ["masks", "coco"])
def test_corrected_labels_train_by_the_same_command(tmp_path, capsys, kind):
    pytest.importorskip("pycocotools")
    (tmp_path / "photos").mkdir()
    for index in range(4):
        scene(index).save(tmp_path / "photos" / f"{index}.png")
    words = ["--classes", "cat, grass", "--templates", "1", "--out", tmp_path / "labels"]
    assert call("label", tmp_path / "photos", *words, "--format", "png,coco") == 0
    made = {"images": "photos", "coco": "labels/coco.json", "background": "background"}
    if kind == "masks":
        names = json.loads((tmp_path / "labels" / "classes.json").read_text())
        names = {"0": "background"} | names
        made = {"images": "photos", "masks": "labels/masks", "classes": names}
    (tmp_path / "data.json").write_text(json.dumps(made))
    ran = run(capsys, "distill", tmp_path / "data.json", "--out", tmp_path / "run", "--steps", 1, *SMALL)
    assert ran.code == 0, ran.err
    assert denseclip.load(tmp_path / "run" / "last.pt").classes == ("background", "cat", "grass")
    wrong = run(capsys, "distill", tmp_path / "data.json", "-c", "cat", "--out", tmp_path / "other")
    assert wrong.code == 2 and "leave out --classes" in wrong.err


def test_a_training_whose_time_is_up_goes_on(tmp_path, capsys, folder):
    command = ["distill", folder, *WORDS, "--out", tmp_path / "run", "--steps", 2, *SMALL]
    first = run(capsys, *command, "--time-limit", 0, "--json")
    assert first.code == 0, first.err
    figures = json.loads(first.out)["figures"]
    assert (figures["steps"], figures["finished"]) == (1, False)
    again = json.loads(run(capsys, *command, "--json").out)["figures"]
    assert (again["steps"], again["finished"]) == (1, True) and 0 <= again["agreement"] <= 1


@pytest.mark.slow
def test_a_huge_picture_among_them(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    fill(folder)
    Image.new("RGB", (12_000, 9_000), (90, 140, 60)).save(folder / "huge.jpg")
    assert call("distill", folder, *WORDS, "-o", tmp_path / "run", "--steps", 3, *SMALL) == 0
    assert skipped_in(tmp_path / "run", folder) == BROKEN
    assert "huge.jpg" in (tmp_path / "run/report.md").read_text()


def test_the_model_is_used_with_one_command(distilled, folder, tmp_path, capsys):
    ran = run(capsys, "segment", folder / "plain.jpg", "--model", distilled / "last.pt", "--out", tmp_path)
    assert ran.code == 0, ran.err
    assert json.loads((tmp_path / "classes.json").read_text()) == {
        "0": "background", "1": "cat", "2": "dog", "3": "grass"
    }  # fmt: skip


def test_it_goes_on_and_refuses_other_settings(distilled, folder, capsys):
    same = ["distill", folder, *WORDS, "-o", distilled, *SMALL]
    assert "nothing was left to do" in run(capsys, *same, "--steps", 4).out
    other = run(capsys, *same, "--steps", 5)
    assert other.code == 2 and "another steps" in other.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "-c", "cat"], "no folder"),
        (["PICTURES"], "no words are given"),
        (["PICTURES", "-c", "cat, cat"], "cat"),
        (["PICTURES", "-c", "cat", "--set", "stepps=3"], "unknown key stepps"),
        (["PICTURES", "-c", "cat", "--model", "tiny-nothing", "--from-scratch"], "tiny-nothing"),
    ],
)
def test_mistakes(folder, tmp_path, capsys, arguments, message):
    arguments = [folder if one == "PICTURES" else one for one in arguments]
    ran = run(capsys, "distill", *arguments, "--out", tmp_path / "run")
    assert ran.code == 2 and message in ran.err and ran.err.count("\n") == 1


@pytest.fixture(scope="module")
def onnx_file(distilled):
    pytest.importorskip("onnxruntime")
    path = distilled / "student.onnx"
    assert call("export", distilled / "last.pt", "--out", path) == 0
    return path


def test_onnx_gives_the_same_masks(distilled, onnx_file):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_file))
    model = denseclip.load(distilled / "last.pt", resize="none")
    exported = Exported(model.clip.network(None, ())[0], model.clip.stats, argmax=True)
    for size in ((96, 96), (70, 131)):
        image = np.asarray(scene(5).resize((size[1], size[0])))
        pixels = image.transpose(2, 0, 1)[None].astype(np.float32)
        (mask,) = session.run(None, {"image": pixels})
        with torch.no_grad():
            ours = exported(torch.from_numpy(pixels)).numpy()
        assert (mask == ours).mean() >= 0.999
        assert (mask[0] == model.segment(image).mask).mean() >= 0.999


def test_the_documented_example_needs_no_torch(onnx_file, tmp_path):
    docs = (Path(__file__).parents[2] / "docs/export.md").read_text()
    example = re.search(r"```python\n(.*?)```", docs, re.S).group(1)
    (tmp_path / "last.onnx").write_bytes(onnx_file.read_bytes())
    scene(6).save(tmp_path / "picture.jpg")
    blocked = "import sys\nsys.modules['torch'] = sys.modules['denseclip'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + example], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("cat", "dog", "grass"))
    assert Image.open(tmp_path / "mask.png").size == (96, 96)


@pytest.mark.skipif(not free_sizes(), reason="torch.export of this torch fixes sizes")
def test_torch_export(distilled, tmp_path, capsys):
    path = tmp_path / "m.pt2"
    same = ["export", distilled / "last.pt", "--format", "torch-export", "--out", path]
    ran = run(capsys, *same, "--scores")
    assert ran.code == 0, ran.err
    names = {"classes": ""}
    program = torch.export.load(path, extra_files=names).module()
    assert json.loads(names["classes"]) == ["background", "cat", "dog", "grass"]
    for shape in ((1, 3, 96, 131), (3, 3, 64, 64)):
        assert program(torch.rand(shape) * 255).shape == (shape[0], 4, *shape[2:])
    again = run(capsys, *same)
    assert again.code == 2 and "is there already" in again.err


def test_without_a_hub_the_student_starts_from_a_tower(tmp_path, capsys, monkeypatch):
    from denseclip.train import distillation as distill

    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(3):
        scene(index).save(folder / f"{index}.png")
    sets = ["batch=2", "workers=0", "augment.crop=[64,64]", "augment.resize=short:64", "save_every=1"]
    few = [part for change in sets for part in ("--set", change)]
    monkeypatch.setattr(distill, "at_hand", lambda name: False)
    ran = run(capsys, "distill", folder, *WORDS, "--steps", 1, *few, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert "starts from the image tower of tiny-rn" in ran.out
    made = denseclip.load(tmp_path / "run" / "last.pt")
    assert made.segment(np.asarray(scene(0))).mask.shape == (96, 96)
    monkeypatch.setattr(distill, "at_hand", lambda name: True)  # the hub is back: the run stays as it began
    again = run(capsys, "distill", folder, *WORDS, "--steps", 1, *few, "--out", tmp_path / "run")
    assert again.code == 0, again.err


def test_hubs_are_asked_for_seconds_only(monkeypatch):
    import socket

    from denseclip.models.backbones import at_hand

    def unreachable(address, timeout):
        assert timeout <= 5
        raise OSError

    monkeypatch.setattr(socket, "create_connection", unreachable)
    assert not at_hand("timm:resnet18")


@pytest.mark.parametrize(
    ("classes", "background", "expected"),
    [
        ("cat, dog", "auto", ("background", "cat", "dog")),
        ("cat, dog", "none", ("cat", "dog")),
        ("cat, dog", "wall, sky", ("background", "cat", "dog")),
        ("background, cat", "auto", ("background", "cat")),
    ],
)
def test_the_background_is_a_class_of_the_student_as_of_segment(folder, classes, background, expected):
    teacher = {"model": "tiny-rn", "background": background, "preset": "maskclip"}
    changes = {"student": {"backbone": "clip", "pretrained": False}}
    recipe = distill_recipe(folder, classes, teacher, from_scratch=True, changes=changes)
    dataset = open_training_data(recipe.data, None)
    task = build_maskclip_plus(recipe, dataset, torch.device("cpu"))
    assert dataset.spec.classes == task.model.classes == expected
    assert (task.teacher.segmenter.classes == expected) and task.hidden == tuple(range(len(expected)))
    evidence = PseudoLabelInputs(
        task.teacher.encoder.encode(torch.zeros(1, 3, 64, 96)).map, task.teacher.embeddings
    )
    labels = assign_labels(torch.full((1, 64, 96), UNLABELED), evidence, task.labeler.guided)
    assert (labels >= 0).all() and (labels < len(expected)).all()
    if background == "auto" and "background," not in classes:  # a plain gray picture is neither cat nor dog
        assert (labels == 0).all()
