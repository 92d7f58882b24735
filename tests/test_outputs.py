"""Nothing of the user's is lost: foreign files, names, two jobs at once, kills, full disks."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cli_support import run
from denseclip.data.images import list_images
from denseclip.errors import UserError
from denseclip.io import atomic_path, write_text
from denseclip.outputs import HOME, OutputFolder, is_output, mark
from denseclip.train.training import train
from label_support import Stub, blobs, label
from train_support import small

STEMS = ("x", "X", "x-overlay", "x-heat-c", "b-x", "x-2", "classes")
SUFFIXES = (".png", ".jpg", ".PNG")
FOREIGN = ("notes.txt", "classes.json", "x.json", "x-overlay.png.bak", "masks/readme.md", "contact-sheet.jpg")


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blobs(np.random.default_rng(seed), 12, 16)).save(path)
    return path


def contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and HOME not in p.parts}


class Reader(Stub):
    """The stub, for paths."""

    @property
    def embeddings(self):
        return self

    def segment(self, picture, *, confidence=False):
        return super().segment(picture, confidence=True)


def segment(capsys, *arguments):
    with patch("denseclip.cli.options.ModelOptions.load", lambda self: Reader(self.classes.split(", "))):
        return run(capsys, "segment", *arguments)


TREES = st.lists(
    st.tuples(st.sampled_from(("", "a/", "b/", ".hidden/")), st.sampled_from(STEMS), st.sampled_from(SUFFIXES)),
    min_size=1, max_size=6, unique=True,
)  # fmt: skip


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tree=TREES,
    foreign=st.lists(st.sampled_from(FOREIGN), max_size=3, unique=True),
    out=st.sampled_from((".", "a", "a/out", "../out")),
    command=st.sampled_from(("segment", "label")),
    overwrite=st.booleans(),
    heat=st.booleans(),
)
def test_no_foreign_byte_changes(capsys, tmp_path_factory, tree, foreign, out, command, overwrite, heat):
    photos = tmp_path_factory.mktemp("tree") / "photos"
    for number, (folder, stem, suffix) in enumerate(tree):
        picture(photos / f"{folder}{stem}{suffix}", number)
    target = photos / out
    for name in foreign:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text("mine")
    before = contents(photos.parent)
    seen = [path for path in before if path.suffix.lower() in (".png", ".jpg") and ".hidden" not in str(path)]
    codes = []
    for _ in range(2):
        if command == "segment":
            extra = ["--overwrite"] * overwrite + ["--heatmaps"] * heat
            codes.append(segment(capsys, photos, "-c", "C++, C#, sky", "-o", target, *extra).code)
        else:
            try:
                label(photos, target, formats=("png", "voc"), overwrite=overwrite)
                codes.append(0)
            except UserError as error:
                codes.append(2 if "\n" not in str(error) else 9)
        after = contents(photos.parent)
        assert {path: after.get(path) for path in before} == before
    made = contents(photos.parent).keys() - before.keys()
    if codes[0] == 0 and command == "segment":
        masks = [path for path in made if path.suffix == ".png" and Image.open(path).mode == "P"]
        assert len(masks) == len([path for path in seen if path.name not in FOREIGN])
        assert codes[1] == (0 if overwrite else 2)
        assert set(list_images(photos)) <= before.keys()
    elif codes[0] == 2:
        assert not made
    assert 9 not in codes


def test_a_picture_keeps_its_name_and_no_two_share_one(tmp_path):
    paths = [
        picture(tmp_path / name) for name in ("d1/x.jpg", "d2/x.png", "x-overlay.jpg", "X.jpg", "d2/d1-x.jpg")
    ]
    suffixes = [".png", "-overlay.png"]
    with OutputFolder(tmp_path / "out", "segment") as output:
        names = output.names(paths, suffixes)
        output.begin()
    derived = [(name + suffix).casefold() for name in names for suffix in suffixes]
    assert len(set(derived)) == len(derived)
    with OutputFolder(tmp_path / "out", "segment") as output:
        assert output.names(paths[::-1], suffixes) == names[::-1]


def test_what_is_ours_and_what_is_not(tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("the user's")
    with OutputFolder(tmp_path, "segment", {"classes": ["sky"]}, begin=True) as output:
        write_text(tmp_path / "a.txt", "ours")
        with pytest.raises(UserError, match=r"mine\.txt is there and was not written by this command"):
            write_text(mine, "ours")
        write_text(tmp_path / "a.txt", "ours again")
        output.finish()
    assert is_output(tmp_path / "a.txt") and not is_output(mine)
    (tmp_path / "a.txt").write_text("corrected by hand")
    with OutputFolder(tmp_path, "segment", {"classes": ["sky"]}) as output:
        assert not output.has(tmp_path / "a.txt")
        with pytest.raises(UserError, match=r"a\.txt is there"):
            output.refuse_foreign([tmp_path / "a.txt"])
    with pytest.raises(UserError, match="holds results made with other classes"):
        OutputFolder(tmp_path, "segment", {"classes": ["sea"]}).__enter__()
    with OutputFolder(tmp_path, "segment", {"classes": ["sea"]}, overwrite=True, begin=True):
        pass
    assert (tmp_path / "a.txt").read_text() == "corrected by hand" and mine.read_text() == "the user's"


def test_a_refusal_leaves_nothing(tmp_path, capsys):
    ran = run(capsys, "segment", tmp_path / "nothing", "-c", "a, b", "-o", tmp_path / "out")
    assert ran.code == 2 and not (tmp_path / "out").exists()


def test_other_commands_and_the_interface_keep_files_too(tmp_path):
    result = Stub().segment(blobs(np.random.default_rng(0), 8, 8))
    (tmp_path / "picture.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"picture\.png is there"):
        result.save(tmp_path)
    assert (tmp_path / "picture.png").read_bytes() == b"mine"
    result.save(tmp_path, "other")
    result.save(tmp_path, "other")
    mark(tmp_path / "second", "save")
    assert not list(tmp_path.glob(".*.tmp*"))


@pytest.mark.parametrize("place", ["file", "file/sub"])
@pytest.mark.parametrize(
    "command",
    [
        ("segment", "{p}", "-c", "a, b"), ("label", "{p}", "-c", "a, b"), ("demo", "--scenes", "0"),
        ("evaluate", "tiny-rn", "stickers20", "--limit", "1"),
        ("robustness", "tiny-rn", "stickers20", "--limit", "1"),
        ("distill", "{p}", "-c", "a, b", "--steps", "1"), ("train", "stickers20-annofree", "steps=1"),
        ("detect", "{p}", "--model", "none.pt"),
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_a_place_that_cannot_be_written(capsys, tmp_path, command, place):
    (tmp_path / "file").write_text("mine")
    picture(tmp_path / "p" / "a.png")
    ran = run(capsys, *(part.format(p=tmp_path / "p") for part in command), "--out", tmp_path / place)
    assert ran.code == 2
    assert ran.err.startswith("denseclip: ") and ran.err.count("\n") == 1 and "file" in ran.err
    assert (tmp_path / "file").read_text() == "mine"


def test_export_replaces_no_file(capsys, tmp_path):
    pytest.importorskip("onnxscript")
    checkpoint = train(small(steps=1), tmp_path / "run").checkpoint
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.onnx").write_text("mine")
    for code, folder in ((2, "mine"), (0, "ours"), (2, "ours")):
        ran = run(capsys, "export", checkpoint, "--out", tmp_path / folder / "model.onnx")
        assert ran.code == code, ran.err
    assert (tmp_path / "mine" / "model.onnx").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    ran = run(capsys, "export", checkpoint, "--out", tmp_path / "file" / "model.onnx")
    assert (ran.code, ran.err.count("\n")) == (2, 1)


def test_a_full_disk_is_one_line_and_the_command_goes_on(capsys, tmp_path):
    for number in range(4):
        picture(tmp_path / "p" / f"{number}.png", number)
    arguments = (tmp_path / "p", "-c", "a, b", "-o", tmp_path / "out")
    real, calls = Image.Image.save, []

    def full(self, *rest, **options):
        calls.append(1)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *rest, **options)

    with patch.object(Image.Image, "save", full):
        ran = segment(capsys, *arguments)
    assert (ran.code, ran.err.count("\n")) == (2, 1) and "No space left on device" in ran.err
    assert not list((tmp_path / "out").glob(".*.tmp*"))
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("[01].png")}
    ran = segment(capsys, *arguments)
    assert ran.code == 0 and "2 were there from the run before" in ran.out
    assert len(list((tmp_path / "out").glob("[0-3].png"))) == 4
    assert {path: path.stat().st_mtime_ns for path in first} == first


COMMANDS = {
    "segment": ["segment", "p", "-c", "cat, sky", "-o", "out", "--templates", "1"],
    "label": ["label", "p", "-c", "cat, sky", "-o", "out", "--templates", "1"],
    "detect": ["detect", "p", "--model", "detector/last.pt", "-o", "out", "--threshold", "0.1"],
    "distill": [
        "distill", "p", "-c", "cat, sky", "-o", "out", "--steps", "60", "--set", "save_every=2", "--set", "batch=2",
        "--set", "augment.crop=[32,32]", "--set", "workers=0", "--set", "precision=fp32", "--from-scratch",
        "--set", "student.backbone=resnet18",
    ],
}  # fmt: skip


PROGRAM = [sys.executable, "-m", "denseclip.cli.main"]


def prepare(name, folder):
    """Pictures, and the detector that `detect` asks for."""
    for number in range(60):
        picture(folder / "p" / f"{number:02d}.png", number)
    if name == "detect":
        short = [
            "steps=1",
            "data.images=2",
            "workers=0",
            "precision=fp32",
            "--no-evaluation",
            "--out",
            "detector",
        ]
        train = [*PROGRAM, "train", "stickers20-denseclip-retinanet", *short]
        subprocess.run(train, cwd=folder, check=True, capture_output=True)


def files_of_2000_bytes():
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_takes_no_more_is_one_line_for_every_command(name, tmp_path):
    prepare(name, tmp_path)
    before, command = contents(tmp_path / "p"), [*PROGRAM, *COMMANDS[name]]
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
    ran = subprocess.run(command, preexec_fn=files_of_2000_bytes, **options)
    lines = [line for line in ran.stderr.splitlines() if line.startswith("denseclip: ")]
    assert ran.returncode == 2 and len(lines) == 1 and "Traceback" not in ran.stderr, ran.stderr
    assert not list((tmp_path / "out").rglob(".*.tmp*"))
    ran = subprocess.run(command, **options)
    assert ran.returncode == 0, ran.stderr
    assert contents(tmp_path / "p") == before


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_it_goes_on_and_a_second_one_is_refused(name, tmp_path):
    prepare(name, tmp_path)
    command = [*PROGRAM, *COMMANDS[name]]
    began = {
        "segment": "*-overlay.png",
        "detect": "*-detected.png",
        "label": "masks/*.png",
        "distill": "last.pt",
    }[name]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while not list((tmp_path / "out").glob(began)):
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.02)
        second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        if process.poll() is None:
            assert second.returncode == 2 and "another process is writing into" in second.stderr
        process.send_signal(signal.SIGKILL)
    before = contents(tmp_path / "p")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "p") == before
    assert not list((tmp_path / "out").rglob(".*.tmp*"))
    if name != "distill":
        pattern = {"segment": "[0-9][0-9].png", "detect": "*-detected.png", "label": "masks/*.png"}[name]
        made = list((tmp_path / "out").glob(pattern))
        assert len(made) == 60


def test_a_file_too_large_for_the_disk_is_not_left_half(tmp_path):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            with atomic_path(tmp_path / "big.txt") as temporary:
                temporary.write_text("x" * 5000)
        except OSError as error:
            os._exit(error.errno)

    child = os.fork()
    if not child:
        limited()
    _, status = os.waitpid(child, 0)
    assert os.WEXITSTATUS(status) == errno.EFBIG
    assert not list(Path(tmp_path).iterdir())
