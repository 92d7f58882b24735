"""Jobs: nothing lost, nothing doubled, nothing overwritten."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from denseclip.errors import UserError
from denseclip.label.formats.png import PngWriter
from denseclip.label.job import HOME, OutputFolder
from denseclip.label.journal import Journal
from denseclip.label.labelled import Rules
from label_support import ALL, CLASSES, Stub, killed_job, label, tree, write_pictures


@pytest.fixture
def source(tmp_path):
    return write_pictures(tmp_path / "in", 6)


class StopError(Exception):
    pass


def stop_after(count):
    def progress(done, skipped, total):
        if done == count:
            raise StopError

    return progress


def test_an_interrupted_job_goes_on_to_the_same_bytes(source, tmp_path):
    label(source, tmp_path / "whole", overlays=True)
    seen = []
    for count in (1, 4):
        with pytest.raises(StopError):
            label(source, tmp_path / "parts", overlays=True, progress=stop_after(count))
    label(source, tmp_path / "parts", overlays=True, progress=lambda *state: seen.append(state))
    assert seen == [(4, 0, 6), (5, 0, 6), (6, 0, 6)]
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")
    journals = [(tmp_path / name / HOME / "journal.jsonl").read_bytes() for name in ("whole", "parts")]
    assert journals[0] == journals[1]


def test_a_finished_job_is_left_alone(source, tmp_path, monkeypatch):
    label(source, tmp_path / "out")
    before = tree(tmp_path / "out")
    monkeypatch.setattr(Stub, "encode", None)
    seen = []
    again = label(source, tmp_path / "out", progress=lambda *state: seen.append(state))
    assert again.labeled == 6
    assert seen == [(6, 0, 6)]
    assert tree(tmp_path / "out") == before


CHANGES = [
    ({"stub": Stub(("cat", "dog"))}, "classes"),
    ({"formats": ("png",)}, "formats"),
    ({"rules": Rules(min_area=3)}, "rules"),
    ({"overlays": True}, "overlays"),
]


@pytest.mark.parametrize(
    ("change", "key"), CHANGES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_other_settings_are_refused(source, tmp_path, change, key):
    label(source, tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(UserError, match=f"results made with other .*{key}.*--overwrite") as caught:
        label(source, tmp_path / "out", **change)
    assert "\n" not in str(caught.value)
    assert tree(tmp_path / "out") == before


def test_other_pictures_are_refused(source, tmp_path):
    label(source, tmp_path / "out")
    shutil.copy(source / "p000.png", source / "new.png")
    with pytest.raises(UserError, match="other pictures"):
        label(source, tmp_path / "out")


def test_files_of_somebody_else_stay(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "classes.json").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        label(source, tmp_path / "out")
    assert tree(tmp_path / "out").keys() == {"classes.json"}
    with pytest.raises(UserError, match=r"classes\.json is there and was not written by this command"):
        label(source, tmp_path / "out", overwrite=True)
    assert tree(tmp_path / "out").keys() == {"classes.json"}
    (tmp_path / "out" / "classes.json").rename(tmp_path / "out" / "notes.txt")
    label(source, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert json.loads((tmp_path / "out" / "classes.json").read_text())["0"] == "cat"


def test_overwrite_starts_anew_but_goes_on_with_an_unfinished_job(source, tmp_path):
    label(source, tmp_path / "fresh", Stub(("cat", "dog")), formats=("png",))
    label(source, tmp_path / "out")
    seen = []
    with pytest.raises(StopError):
        label(
            source, tmp_path / "out", Stub(("cat", "dog")), formats=("png",), overwrite=True,
            progress=stop_after(2),
        )  # fmt: skip
    label(
        source, tmp_path / "out", Stub(("cat", "dog")), formats=("png",), overwrite=True,
        progress=lambda *state: seen.append(state),
    )  # fmt: skip
    assert seen[0] == (2, 0, 6)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_bad_pictures_are_listed_and_tried_again(source, tmp_path):
    (source / "torn.png").write_bytes((source / "p000.png").read_bytes()[:80])
    (source / "empty.jpg").write_bytes(b"")
    Image.new("CMYK", (30, 20)).save(source / "cmyk.jpg")
    Image.fromarray(np.full((30, 40), 40000, np.uint16)).save(source / "deep.png")
    summary = label(source, tmp_path / "out")
    assert (summary.labeled, summary.skipped) == (8, 2)
    assert [file for file, _ in summary.reasons] == ["empty.jpg", "torn.png"]
    lines = (tmp_path / "out" / "pictures.csv").read_text().splitlines()
    assert len(lines) == 11
    assert "torn.png is cut short or damaged" in "".join(lines)
    assert not (tmp_path / "out" / "masks" / "torn.png").exists()
    shutil.copy(source / "p000.png", source / "torn.png")
    assert label(source, tmp_path / "out").skipped == 1
    assert (tmp_path / "out" / "masks" / "torn.png").exists()
    label(source, tmp_path / "fresh")
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_a_turned_picture_is_upright(tmp_path):
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), "red").save(tmp_path / "in" / "a.jpg", exif=exif)
    label(tmp_path / "in", tmp_path / "out")
    with Image.open(tmp_path / "out" / "masks" / "a.png") as mask:
        assert mask.size == (20, 40)


def test_a_summary_of_what_was_found(source, tmp_path):
    label(source, tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    pixels = dict.fromkeys(CLASSES, 0)
    for path in source.rglob("*.png"):
        mask = Stub().segment(np.asarray(Image.open(path))).mask
        for k, name in enumerate(CLASSES):
            pixels[name] += int((mask == k).sum())
    assert {row["class"]: row["pixels"] for row in summary["classes"]} == pixels
    assert all(row["pictures"] == 6 for row in summary["classes"])
    expected = float(np.exp(3) / np.exp([0, 1, 2, 3]).sum())
    assert summary["confidence"] == pytest.approx(expected, abs=1e-3)
    assert len(summary["least_confident"]) == 6


def test_a_full_disk_is_one_line_and_no_loss(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        calls = []

        def write(self, picture):
            calls.append(1)
            if len(calls) > 3:
                raise OSError(28, "No space left on device")

        patch.setattr(PngWriter, "write", write)
        with pytest.raises(UserError, match=r"cannot write to .*out \(No space left on device\)") as caught:
            label(source, tmp_path / "out")
        assert "\n" not in str(caught.value)
    assert label(source, tmp_path / "out").labeled == 6


def test_two_at_once_are_refused(source, tmp_path):
    pytest.importorskip("fcntl")
    out = tmp_path / "out"
    with OutputFolder(out, "label"), pytest.raises(UserError, match="another process is writing into"):
        label(source, out, overwrite=True)


def test_a_journal_ends_at_its_last_whole_line(tmp_path):
    path = tmp_path / HOME / "journal.jsonl"
    with Journal(path, 9) as journal:
        for position in (2, 0, 1):
            journal.append(position, {"file": "ä", "payload": "x" * position})
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with Journal(path, 9) as journal:
            assert journal.labeled == whole[:cut].count(b"\n")
            journal.append(5, {"skipped": "torn"})
            positions = [position for position, _ in journal.records()]
            assert positions == sorted(positions) and positions[-1] == 5
            assert not journal.has_labels(5)


def run_kills(tmp_path, pictures, kills, seed):
    """Kill a job again and again, then let it end; what it wrote is what an undisturbed one writes."""
    source = write_pictures(tmp_path / "in", pictures)
    label(source, tmp_path / "whole", overlays=True)
    rng, killed = np.random.default_rng(seed), 0
    for lines in np.linspace(0, pictures, kills).astype(int):  # the last while it puts files together
        killed += killed_job(source, tmp_path / "out", lines, float(rng.uniform(0, 0.05)))
    assert killed >= kills // 2
    killed_job(source, tmp_path / "out", 0, 300.0)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert len(tree(tmp_path / "out")) > 6 * pictures
    journal = (tmp_path / "out" / HOME / "journal.jsonl").read_bytes()
    assert journal == (tmp_path / "whole" / HOME / "journal.jsonl").read_bytes()
    assert journal.count(b"\n") == pictures


def test_killed_now_and_then(tmp_path):
    run_kills(tmp_path, 16, 3, seed=0)


@pytest.mark.slow
def test_killed_twenty_times(tmp_path):
    run_kills(tmp_path, 400, 20, seed=1)


def test_all_formats_are_tested():
    from denseclip.label.formats import WRITERS

    assert set(WRITERS) == set(ALL)
