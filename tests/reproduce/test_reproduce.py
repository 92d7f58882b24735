"""`denseclip reproduce` from end to end: rows without training, on tiny random CLIPs and small pictures."""

import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cli_support import run
from clip_support import write_embedded
from denseclip.cli.reproduce import reproduce as command
from denseclip.data.opening import open_dataset
from denseclip.errors import UserError
from denseclip.evaluate.grid import corrupted
from denseclip.evaluate.run import evaluate, segmenter_for
from denseclip.reproduce import MissingError, needs, reproduce, runner
from denseclip.reproduce.tables import Table, read_table
from own_data import write_own_data

FILES = ("md", "csv", "json", "png")
SMALL = {"resize": "short:64", "templates": "1"}
METHODS = [
    {"name": "clean", "settings": SMALL},
    {"name": "spatter 5", "settings": SMALL, "corruption": ("spatter", 5)},
    {"name": "vanilla", "settings": {**SMALL, "preset": "vanilla"}},
]
CLAIM = {"text": "vanilla is below", "weights": {"clean": 1, "vanilla": -1}}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSECLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "reproduce"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    named = {"RN50": "rn", "ViT-B-16": "vit"}
    return {name: str(write_embedded(folder / kind, kind)) for name, kind in named.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_own_data(tmp_path_factory.mktemp("data") / "noise"))


@pytest.fixture
def table(data):
    grid = {
        "protocol": "ours",
        "models": {"RN50": "tiny-rn", "ViT-B-16": "tiny-vit"},
        "data": {"voc20": data},
    }
    content = {
        "name": "own",
        "title": "Own",
        "methods": METHODS,
        "mini": grid,
        "paper": grid,
        "claims": [CLAIM],
    }
    return Table.model_validate(content)


@pytest.fixture
def make(table, models, tmp_path):
    """Makes the table with other options; what was counted, by row."""

    def made(**options):
        counted = {}
        watch = lambda title, done, total: counted.setdefault(title, []).append(done)  # noqa: E731
        given = {"table": table, "model": models, "limit": 3, "out": tmp_path / "out", "watch": watch}
        reproduce(**(given | options))
        return {title.removeprefix("counting "): max(done) - min(done) for title, done in counted.items()}

    return made


def read(folder):
    return {suffix: (folder / f"own-mini.{suffix}").read_bytes() for suffix in FILES}


def test_the_same_command_twice_gives_identical_files_and_counts_nothing_anew(make, tmp_path):
    assert list(make().values()) == [3] * 6
    first = read(tmp_path / "out")
    assert not any(make().values())
    assert read(tmp_path / "out") == first
    make(out=tmp_path / "elsewhere")
    assert read(tmp_path / "elsewhere") == first


def test_without_cache_everything_is_counted_anew_to_the_same_files(make, tmp_path):
    make()
    first = read(tmp_path / "out")
    assert list(make(no_cache=True).values()) == [3] * 6
    assert read(tmp_path / "out") == first


def test_tables_share_what_they_have_in_common(make, table):
    make()
    other = table.model_copy(update={"name": "other", "methods": table.methods[::-1]})
    assert not any(make(table=other).values())


def test_an_interrupted_run_continues_to_the_same_files(make, table, tmp_path):
    make(out=tmp_path / "whole")

    def stop(title, done, total):
        seen.append((title, done))
        if len(dict.fromkeys(title for title, _ in seen)) == 3 and done == 1:
            raise KeyboardInterrupt

    for path in (tmp_path / "cache" / "reproduce").iterdir():
        path.unlink()
    seen = []
    with pytest.raises(KeyboardInterrupt):
        make(watch=stop)
    assert not (tmp_path / "out").exists()
    assert list(make().values()) == [0, 0, 2, 3, 3, 3]
    assert read(tmp_path / "out") == read(tmp_path / "whole")


def test_a_time_limit_stops_between_two_images_and_the_next_call_goes_on(make, tmp_path, monkeypatch):
    make(out=tmp_path / "whole", no_cache=True)
    for path in (tmp_path / "cache" / "reproduce").iterdir():
        path.unlink()
    seen = []
    hours = lambda: 3600.0 * (len(seen) > 5)  # over after a picture of the second row  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(runner, "time", SimpleNamespace(monotonic=hours))
        make(time_limit=1, watch=lambda *told: seen.append(told))
    report = json.loads((tmp_path / "out" / "own-mini.json").read_text())
    assert [row["missing"] for row in report["rows"]] == [""] + ["not made yet"] * 5
    assert not report["complete"]
    assert {claim["held"] for claim in report["claims"]} == {None}
    assert next(iter(make().values())) == 0
    assert read(tmp_path / "out") == read(tmp_path / "whole")


def test_a_filter_makes_some_rows_and_keeps_the_others(make, tmp_path):
    assert sum(make(filter="vanilla").values()) == 6
    rows = json.loads((tmp_path / "out" / "own-mini.json").read_text())["rows"]
    assert [row["mIoU"] is not None for row in rows] == [False, False, True] * 2
    assert sum(make(filter="spatter").values()) == 6
    rows = json.loads((tmp_path / "out" / "own-mini.json").read_text())["rows"]
    assert [row["mIoU"] is not None for row in rows] == [False, True, True] * 2


def test_counts_belong_to_weights_and_code(make, models, cache, monkeypatch):
    make()
    assert len(list(cache.iterdir())) == 6
    make(model={"RN50": models["ViT-B-16"], "ViT-B-16": models["RN50"]})
    assert len(list(cache.iterdir())) == 6  # the same weights, wherever they stand
    monkeypatch.setattr(runner, "code_digest", lambda: "later")
    make()
    assert len(list(cache.iterdir())) == 12


def test_an_embedded_model_that_is_not_there_leaves_its_rows_out(table, models, tmp_path, monkeypatch):
    monkeypatch.setattr("denseclip.clip.config.ASSETS", tmp_path)
    report = reproduce(table, model={"RN50": models["RN50"]}, limit=1, out=tmp_path / "out")
    assert {row["clip"] for row in report["rows"]} == {"tiny-rn"}
    assert report["notes"][0] == "tiny-vit is not in this installation; its rows are left out."
    assert report["notes"][0] in (tmp_path / "out" / "own-mini.md").read_text()


def test_corrupted_rows_count_corrupted_pictures_in_fp32(make, data, models, tmp_path):
    make(device="cpu")
    report = json.loads((tmp_path / "out" / "own-mini.json").read_text())
    rows = {row["method"]: row for row in report["rows"] if row["clip"] == "tiny-rn"}
    dataset = open_dataset(data)
    segmenter = segmenter_for(dataset.spec, models["RN50"], device="cpu", precision="fp32", **SMALL)
    for name, corruption in (("clean", None), ("spatter 5", ("spatter", 5))):
        change = corrupted(*corruption) if corruption else None
        result = evaluate(segmenter, dataset, change=change, corruption=corruption, limit=3)
        assert rows[name]["per_run"] == {key: [round(value, 2)] for key, value in result.summary().items()}
    assert rows["clean"]["mIoU"] != rows["spatter 5"]["mIoU"]
    assert "float32 on cpu" in report["models"]["tiny-rn"]


def test_a_row_that_fails_is_left_out_and_the_others_go_on(table, models, tmp_path):
    broken = {"name": "wrong", "settings": {**SMALL, "preset": "maskclip-dilated"}}  # not for a ViT
    wrong = Table.model_validate({**table.model_dump(), "methods": [*METHODS, broken]})
    report = reproduce(wrong, model=models, limit=1, out=tmp_path / "out")
    assert [row["missing"] for row in report["rows"]] == [""] * 7 + ["not made yet"]
    assert report["notes"][0].startswith("Failed: tiny-vit, ")
    vit = {**table.mini.model_dump(), "models": {"ViT-B-16": "tiny-vit"}}
    nothing = Table.model_validate({**wrong.model_dump(), "methods": [broken], "mini": vit, "claims": []})
    with pytest.raises(UserError, match=r"tiny-vit, .*, wrong: "):
        reproduce(nothing, limit=1, out=tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_options_are_those_of_the_command():
    function = inspect.signature(reproduce).parameters
    shell = ["weights" if name == "model" else name for name in function if name not in ("watch", "say")]
    assert set(inspect.signature(command).parameters) == set(shell)
    assert function["out"].default == Path("runs/reproduce")
    assert function["precision"].default == "fp32"


def test_a_file_that_is_not_ours_is_refused_before_anything_is_counted(make, tmp_path, cache):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "own-mini.csv").write_text("mine")
    with pytest.raises(UserError, match=r"own-mini\.csv is there and was not written by this command"):
        make()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["own-mini.csv"]
    assert not cache.exists()
    (tmp_path / "out" / "own-mini.csv").rename(tmp_path / "out" / "mine.csv")
    make()
    make()  # into a folder that has its files already
    assert (tmp_path / "out" / "mine.csv").read_text() == "mine"


# ---- paper scale


def voc(root):
    """VOC 2012 with one image of validation."""
    home = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (home / folder).mkdir(parents=True)
    picture = np.random.RandomState(0).randint(0, 256, (40, 64, 3)).astype(np.uint8)
    Image.fromarray(picture).save(home / "JPEGImages" / "2007_3.jpg")
    Image.fromarray(np.full((40, 64), 9, np.uint8)).save(home / "SegmentationClass" / "2007_3.png")
    (home / "ImageSets" / "Segmentation" / "val.txt").write_text("2007_3\n")
    return home


def test_paper_scale_lists_what_is_missing_one_line_each(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(needs, "cached", lambda entry: None)
    monkeypatch.setattr(needs, "fetch", lambda entry: pytest.fail("data comes first"))
    arguments = ("--scale", "paper", "--rows", "training-free", "--out", tmp_path / "out")
    ran = run(capsys, "reproduce", "table3", *arguments)
    assert ran.code == 2
    lines = ran.err.splitlines()
    assert len(lines) == 6  # three data sets, three weights
    assert all(line.startswith("denseclip: ") for line in lines)
    for word in (
        "data: voc20 ",
        "data: context59 ",
        "data: coco-stuff ",
        "RN50.pt",
        "RN50x16.pt",
        "ViT-B-16.pt",
    ):
        assert sum(word in line for line in lines) == 1
    assert "VOCtrainval_11-May-2012.tar" in ran.err
    assert "--data-root" in lines[0]
    assert not (tmp_path / "out").exists()


def test_paper_scale_of_trained_rows_lists_splits_and_backbones_too(tmp_path, monkeypatch):
    monkeypatch.setattr(needs, "cached", lambda entry: tmp_path)
    with pytest.raises(MissingError) as caught:
        reproduce("table1", "paper", data_root=tmp_path)
    lines = "\n".join(caught.value.lines)
    assert "data: voc20 (val): " in lines and "data: voc20 (train): " in lines
    assert "weights: ImageNet's for the backbone resnet101" in lines
    with pytest.raises(MissingError, match=r"coco \(val\) needs --data-root"):
        reproduce("coco", "paper")
    with pytest.raises(MissingError, match=r"coco \(train\): "):
        reproduce("coco", "paper", data_root=tmp_path)


def test_paper_scale_names_the_folder_and_the_files_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(needs, "cached", lambda entry: tmp_path)
    home = voc(tmp_path)
    (home / "SegmentationClass" / "2007_3.png").unlink()
    with pytest.raises(MissingError) as caught:
        reproduce("table4", "paper", data_root=tmp_path)
    (line,) = caught.value.lines
    assert "1 files are missing" in line
    assert "2007_3.png" in line
    with pytest.raises(MissingError, match=r"no folder .*nowhere"):
        reproduce("table4", "paper", data_root=tmp_path / "nowhere")


def test_weights_are_fetched_only_when_all_data_is_there(tmp_path, monkeypatch):
    def fail(entry):
        raise UserError(f"{entry.label}: cannot be downloaded")

    voc(tmp_path)
    monkeypatch.setattr(needs, "cached", lambda entry: None)
    monkeypatch.setattr(needs, "fetch", fail)
    with pytest.raises(MissingError) as caught:
        reproduce("table4", "paper", data_root=tmp_path)
    assert [line.split(":")[1].strip() for line in caught.value.lines] == ["RN50", "RN50x16"]


def test_a_dry_run_tells_what_is_there_what_is_missing_and_how_long_it_takes(capsys, tmp_path, monkeypatch):
    """Nothing is downloaded or written; whatever is missing comes with its address, size and command."""
    voc(tmp_path)
    monkeypatch.setattr(needs, "cached", lambda entry: tmp_path if entry.name == "RN50" else None)
    monkeypatch.setattr(needs, "fetch", lambda entry: pytest.fail("a dry run downloads nothing"))
    arguments = ("--scale", "paper", "--data-root", tmp_path, "--dry-run", "--out", tmp_path / "out")
    ran = run(capsys, "reproduce", "table3", *arguments, "--filter", "voc20-annofree-rn50x16")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    (there,) = (line for line in lines if line.startswith("data: voc20 (val)"))
    assert "there, but only 1 of 1,449 images" in there
    (train,) = (line for line in lines if line.startswith("data: voc20 (train)"))
    assert "fetch benchmark.tgz (1.4 GB) from http://" in train and "`tar -xf benchmark.tgz" in train
    assert "then run `denseclip data prepare voc20 ROOT`" in train
    assert "weights: RN50: there" in lines
    (large,) = (line for line in lines if line.startswith("weights: RN50x16"))
    assert "RN50x16.pt (about 0.6 GB)" in large.replace("0.5 GB", "0.6 GB")
    (row,) = (line for line in lines if line.startswith("voc20-annofree-rn50x16, seed 0: about "))
    assert "of training" in row and "GiB" in row and "of evaluation" in row
    assert any(line.startswith("in all about ") for line in lines)
    assert not (tmp_path / "out").exists()


def test_too_few_pictures_are_said_with_the_figures(models, tmp_path, monkeypatch):
    voc(tmp_path)
    one = read_table("table3").model_dump() | {"rows": [], "claims": [], "figures": []}
    paper = {**one["paper"], "data": {"voc20": "voc20"}, "models": {"RN50": "RN50"}}
    methods = [{"name": "MaskCLIP", "settings": {"templates": "1"}}]
    table = Table.model_validate({**one, "paper": paper, "methods": methods})
    given = {"model": {"RN50": models["RN50"]}, "data_root": tmp_path, "out": tmp_path / "out"}
    report = reproduce(table, "paper", **given)
    assert "data: voc20 (val): only 1 of 1,449 images, and no figure is as published" in report["notes"][-1]


def test_paper_scale_prints_ours_beside_the_published(models, tmp_path):
    voc(tmp_path)
    content = read_table("table3").model_dump() | {"rows": [], "claims": [], "figures": []}
    paper = {**content["paper"], "data": {"voc20": "voc20"}, "models": {"RN50": "RN50"}}
    methods = [{"name": "MaskCLIP", "settings": {"templates": "1"}}]
    table = Table.model_validate({**content, "paper": paper, "methods": methods})
    out = tmp_path / "out"
    report = reproduce(table, "paper", model={"RN50": models["RN50"]}, data_root=tmp_path, out=out)
    (row,) = report["rows"]
    assert row["mIoU published"] == "41.5"
    assert report["protocol"]["compat"] == "official"
    assert report["protocol"]["resize"] == "2048x512"
    text = (out / "table3-paper.md").read_text()
    assert f"{row['mIoU']:.2f} [" in text and "] (41.5)" in text
    assert "--data-root FOLDER --weights RN50=PATH" in text
    assert str(tmp_path) not in text


# ---- the command


def test_command(capsys, models, tmp_path):
    given = [word for name, path in models.items() for word in ("--weights", f"{name}={path}")]
    ran = run(capsys, "reproduce", "kspd", "--out", tmp_path / "out", "--limit", 1, *given)
    assert ran.code == 0, ran.err
    assert "PD helps" in ran.out
    report = json.loads((tmp_path / "out" / "kspd-mini.json").read_text())
    shown = "--scale mini --weights RN50=PATH --weights ViT-B-16=PATH --limit 1"
    assert report["command"] == f"denseclip reproduce kspd {shown}"
    assert {"denseclip", "torch", "open_clip", "python"} <= report["protocol"].keys()
    for row in report["rows"]:
        assert row["mIoU published"] is None
        assert report["claims_figures"][f"{row['clip']} / {row['data']} / {row['method']}"] == row["mIoU"]
    assert not any(str(tmp_path) in path.read_text() for path in (tmp_path / "out").glob("kspd-mini.[mcj]*"))
    assert report["protocol"]["precision"].startswith("fp32")
    assert {path.suffix[1:] for path in (tmp_path / "out").glob("*-mini.*")} == set(FILES)


def test_mistakes_are_one_line(capsys, models, tmp_path):
    for arguments, said in (
        (("table9",), "choose one of ade20k, "),
        (("variants", "--rows", "trained"), "no trained rows"),
        (("table1", "--rows", "training-free"), "no training-free rows"),
        (("table3", "--weights", "RN50"), "write NAME=PATH"),
        (("table3", "--weights", "RN101=x.pt"), "no model 'RN101'; it has RN50, ViT-B-16"),
        (("table3", "--weights", "RN50=nowhere.pt"), "there is no nowhere.pt"),
        (("kspd", "--filter", "resnet"), "no row has 'resnet' in its name; choose one of MaskCLIP, PD"),
    ):
        ran = run(capsys, "reproduce", *arguments, "--out", tmp_path / "out")
        assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
        assert said in ran.err
    assert not (tmp_path / "out").exists()
