"""`denseclip segment` as a user meets it."""

import json

import numpy as np
import pytest
from PIL import Image

from cli_support import run
from clip_support import write_embedded


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_embedded(folder / "tiny", "vit")
    return folder / "tiny"


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / name)
    return folder


FAST = ("--templates", "1", "--resize", "short:64")
WORDS = ("--classes", "cat, red car|automobile, grass")


def test_masks_overlays_and_classes(capsys, model, pictures, tmp_path):
    out = tmp_path / "out"
    ran = run(capsys, "segment", pictures, *WORDS, "-m", model, "-o", out, *FAST, "--heatmaps")
    assert ran.code == 0, ran.err
    assert "2 pictures" in ran.out
    for stem in ("a", "b"):
        with Image.open(out / f"{stem}.png") as mask:
            assert mask.size == (60, 40)
            assert np.asarray(mask).max() <= 3
        assert (out / f"{stem}-overlay.png").exists()
        assert (out / f"{stem}-heat-grass.png").exists()
    assert json.loads((out / "classes.json").read_text()) == {
        "1": "cat", "2": "red car", "3": "grass"
    }  # fmt: skip


def test_several_pictures_come_on_a_contact_sheet(capsys, model, pictures, tmp_path):
    one, both = tmp_path / "one", tmp_path / "both"
    ran = run(capsys, "segment", pictures / "a.png", *WORDS, "-m", model, "-o", one, *FAST)
    assert ran.code == 0, ran.err
    assert not (one / "contact-sheet.jpg").exists()
    ran = run(capsys, "segment", pictures, *WORDS, "-m", model, "-o", both, *FAST)
    assert "contact-sheet.jpg" in ran.out
    with Image.open(both / "contact-sheet.jpg") as sheet:
        assert sheet.width > 2 * 240
        shown = np.asarray(sheet.convert("RGB")).astype(int)
    with Image.open(both / "b-overlay.png") as overlay:
        expected = np.asarray(overlay.crop((0, 0, 60, 40)).resize((240, 160)).convert("RGB")).astype(int)
    assert np.abs(shown[20:180, 246:486] - expected).mean() < 12  # its legend is not on the sheet


def test_a_broken_picture_is_listed_and_the_others_are_done(capsys, model, pictures, tmp_path):
    (pictures / "c.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (pictures / "d.jpg").write_bytes(b"")
    out = tmp_path / "out"
    ran = run(capsys, "segment", pictures, *WORDS, "-m", model, "-o", out, *FAST)
    assert ran.code == 1
    assert (out / "a.png").exists()
    assert not (out / "c.png").exists()
    assert ran.out.count("skipped") == 2
    assert "d.jpg is empty" in ran.out.replace("\n", " ")


def test_results_are_not_replaced_unless_asked(capsys, model, pictures, tmp_path):
    arguments = ("segment", pictures, *WORDS, "-m", model, "-o", tmp_path / "out", *FAST)
    assert run(capsys, *arguments).code == 0
    again = run(capsys, *arguments)
    assert again.code == 2
    assert again.err.endswith("a.png is there already; add --overwrite or give another --out\n")
    assert run(capsys, *arguments, "--overwrite").code == 0


def test_pictures_of_one_name_in_two_folders_do_not_collide(capsys, model, pictures, tmp_path):
    other = pictures / "sub"
    other.mkdir()
    (other / "a.png").write_bytes((pictures / "a.png").read_bytes())
    ran = run(capsys, "segment", pictures, *WORDS, "-m", model, "-o", tmp_path / "out", *FAST)
    assert ran.code == 0
    assert {path.name for path in (tmp_path / "out").glob("*a.png")} == {"a.png", "sub-a.png"}


BAD = [
    ((), "no words are given; add --classes"),
    (("--model", "nothing-here.pt"), "there is no file nothing-here.pt; check the path"),
    (("--classes", " , ,"), ""),
    (("--classes", "cat, cat"), "twice"),
    (("--classes", "missing.json"), "missing.json"),
    ((*WORDS, "--preset", "maskclap"), "preset 'maskclap' is unknown"),
    ((*WORDS, "--refine", "denoise"), "refinement 'denoise' is not understood"),
    ((*WORDS, "--ks-norm", "rows"), "ks-norm 'rows' is unknown"),
    ((*WORDS, "--resize", "big"), "cannot read the resize rule 'big'"),
    ((*WORDS, "--slide", "224x112"), "slide '224x112' is not understood"),
    ((*WORDS, "--scales", "1;2"), "scales '1;2' are not understood"),
    ((*WORDS, "--threshold", "2"), "background threshold 2 is no probability"),
    ((*WORDS, "--background", "cat"), "cat"),
    ((*WORDS, "--device", "tpu9"), "device 'tpu9' cannot be used"),
    ((*WORDS, "--precision", "int8"), "precision 'int8' is unknown"),
    ((*WORDS, "--compat", "yes"), "compat 'yes' is unknown"),
    ((*WORDS, "--templates", "a photo"), "a photo"),
    ((*WORDS, "--model", "ViT-B-61"), "ViT-B-61"),
    ((*WORDS, "--model", "nothing-here.pt"), "nothing-here.pt"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), BAD, ids=lambda value: " ".join(value)[:40] if value else "none"
)
def test_mistakes_are_one_line_on_stderr(capsys, model, pictures, tmp_path, arguments, message):
    chosen = () if "--model" in arguments else ("--model", model)
    fast = () if {"--resize", "--templates"} & set(arguments) else FAST
    ran = run(capsys, "segment", pictures, *arguments, *chosen, *fast, "--out", tmp_path / "out")
    assert ran.code == 2
    assert message in ran.err
    assert ran.err.startswith("denseclip: ")
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_nothing_to_do(capsys, model, tmp_path):
    (tmp_path / "empty").mkdir()
    ran = run(capsys, "segment", tmp_path / "empty", *WORDS, "-m", model)
    assert ran.code == 2
    assert "empty" in ran.err


def test_unknown_options_and_commands_are_refused(capsys):
    assert run(capsys, "segment", "x.png", "--clases", "cat").code == 2
    assert run(capsys, "segmentt").code == 2


def test_models_lists_names_without_network(capsys):
    ran = run(capsys, "models")
    assert ran.code == 0
    assert "ViT-B-16" in ran.out
    assert "more with --all" in ran.out


def test_kinds_that_are_not_read_are_told(capsys, model, pictures, tmp_path):
    for name in ("c.heic", "d.HEIC", "e.cr2"):
        (pictures / name).write_bytes(b"x")
    ran = run(capsys, "segment", pictures, *WORDS, "-m", model, "-o", tmp_path / "out", *FAST)
    assert ran.code == 0, ran.err
    assert "not read: 1 .cr2, 2 .heic" in " ".join((ran.out + ran.err).split())
