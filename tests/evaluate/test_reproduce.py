"""`denseclip reproduce` from end to end on tiny random CLIPs and a few images."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cli_support import run
from clip_support import write_embedded
from denseclip.data.published import dataset_spec
from denseclip.data.sticker_sets import open_stickers
from denseclip.errors import UserError
from denseclip.evaluate.reproduce import MissingError, bench, needs, reproduce, table
from denseclip.recipes import Method, recipe
from denseclip.segment.segmenter import Segmenter

FILES = ("md", "csv", "json", "png")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DENSECLIP_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """One template, small scenes, few rows."""
    monkeypatch.setattr(bench, "open_dataset", lambda name, root: open_stickers(dataset_spec(name), side=64))
    monkeypatch.setattr(bench, "protocol_settings", _short)
    monkeypatch.setattr(table, "recipe", lambda name: _fewer(recipe(name)))


def _short(protocol, spec, **changes):
    return {"resize": "none", "templates": "1"} | changes


def _fewer(one):
    if not one.levels:
        return one
    methods = [m for m in one.methods if not m.corruption or m.corruption[0] in ("spatter", "gaussian_blur")]
    return replace(one, methods=tuple(methods))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return {
        "RN50": str(write_embedded(folder / "rn", "rn")),
        "ViT-B-16": str(write_embedded(folder / "vit", "vit")),
    }


def read(folder, stem):
    return {suffix: (folder / f"{stem}.{suffix}").read_bytes() for suffix in FILES}


def small(name, models, folder, **options):
    given = {"models": models, "limit": 3, "out": folder / "out", "cache": folder / "counts"}
    return reproduce(name, **(given | options))


@pytest.mark.parametrize("name", ["table3", "table4", "table5", "kspd", "variants"])
def test_every_table_gives_rows_claims_and_named_figures(name, models, tmp_path):
    small(name, models, tmp_path, limit=2)
    content = json.loads((tmp_path / "out" / f"{name}-mini.json").read_text())
    one = _fewer(recipe(name))
    mini = one.scales["mini"]
    assert len(content["rows"]) == len(one.methods) * len(mini.models) * len(mini.data)
    assert content["command"].startswith(f"denseclip reproduce {name} --scale mini --rows training-free")
    assert {"denseclip", "torch", "open_clip", "python"} <= content["protocol"].keys()
    assert content["claims"]
    for claim in content["claims"]:
        assert isinstance(claim["held"], bool)
        assert claim["held"] or claim["why"]
        assert len(claim["interval"]) == 2
        assert content["claims_figures"][f"difference: {claim['claim']}"] == claim["figures"]["difference"]
    for row in content["rows"]:
        assert content["claims_figures"][f"{row['model']} / {row['data']} / {row['method']}"] == row["mIoU"]
        assert row["published"] is None
    text = (tmp_path / "out" / f"{name}-mini.md").read_text()
    assert text.startswith(f"# {one.title} (mini)\n\n`{content['command']}`")
    assert str(tmp_path) not in text
    assert str(tmp_path.parent) not in json.dumps(content)
    assert f"{sum(claim['held'] for claim in content['claims'])} of {len(content['claims'])} held" in text


def test_the_same_command_twice_gives_identical_files_and_counts_nothing_anew(models, tmp_path, monkeypatch):
    small("table4", models, tmp_path)
    first = read(tmp_path / "out", "table4-mini")
    monkeypatch.setattr(Segmenter, "segment", None)  # no picture is segmented again
    small("table4", models, tmp_path)
    assert read(tmp_path / "out", "table4-mini") == first
    small("table4", models, tmp_path, out=tmp_path / "elsewhere")
    assert read(tmp_path / "elsewhere", "table4-mini") == first


def test_fresh_counts_anew_to_the_same_files(models, tmp_path, monkeypatch):
    small("table4", models, tmp_path)
    first = read(tmp_path / "out", "table4-mini")
    counted = []
    segment = Segmenter.segment
    monkeypatch.setattr(Segmenter, "segment", lambda self, x: counted.append(1) or segment(self, x))
    small("table4", models, tmp_path, fresh=True)
    assert len(counted) == 3 * 2 * 5
    assert read(tmp_path / "out", "table4-mini") == first


def test_tables_share_what_they_have_in_common(models, tmp_path, monkeypatch):
    small("table5", models, tmp_path)
    monkeypatch.setattr(Segmenter, "segment", None)
    small("table4", models, tmp_path)


def test_an_interrupted_run_continues_to_the_same_files(models, tmp_path):
    whole = small("table4", models, tmp_path, cache=tmp_path / "whole", out=tmp_path / "a")

    def stop(title, number, done, total):
        if (number, done) == (2, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small("table4", models, tmp_path, progress=stop)
    assert not (tmp_path / "out").exists()
    seen = []
    again = small("table4", models, tmp_path, progress=lambda *told: seen.append(told))
    assert [(number, done) for _, number, done, _ in seen if number <= 2][:3] == [(0, 3), (1, 3), (2, 1)]
    assert again.to_json() == whole.to_json()
    assert read(tmp_path / "a", "table4-mini") == read(tmp_path / "out", "table4-mini")


def test_counts_belong_to_weights_and_code(models, tmp_path, monkeypatch):
    small("table4", models, tmp_path)
    counts = tmp_path / "counts"
    assert len(list(counts.iterdir())) == 10
    small("table4", {"RN50": models["ViT-B-16"], "ViT-B-16": models["RN50"]}, tmp_path)
    assert len(list(counts.iterdir())) == 10  # the same weights, wherever they stand
    monkeypatch.setattr(bench, "code_digest", lambda: "later")
    small("table4", models, tmp_path)
    assert len(list(counts.iterdir())) == 20


def test_an_embedded_model_that_is_not_there_leaves_its_rows_out(models, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "have_embedded", lambda source: source != "tiny-vit")
    report = small("table4", {"RN50": models["RN50"]}, tmp_path)
    assert {line.row.model for line in report.lines} == {"tiny-rn"}
    assert report.notes == ["tiny-vit is not in this installation; its rows are left out."]
    assert report.notes[0] in (tmp_path / "out" / "table4-mini.md").read_text()


def test_corrupted_rows_count_corrupted_pictures(models, tmp_path, monkeypatch):
    changed = []

    def spy(kind, level):
        return lambda sample: changed.append((kind, level)) or sample.image

    monkeypatch.setattr(bench, "corrupted", spy)
    small("table4", models, tmp_path, limit=1)
    corruptions = [("gaussian_blur", 1), ("gaussian_blur", 5), ("spatter", 1), ("spatter", 5)]
    assert changed == corruptions * 2  # of either model, after its clean picture


def test_an_unknown_model_of_a_table_is_the_users_mistake(models, tmp_path):
    with pytest.raises(UserError, match="no model 'RN101'; it has RN50, ViT-B-16"):
        small("table3", {"RN101": models["RN50"]}, tmp_path)


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
    ran = run(capsys, "reproduce", "table3", "--scale", "paper", "--out", tmp_path)
    assert ran.code == 2
    lines = ran.err.splitlines()
    assert len(lines) == 6  # three data sets, three weights
    assert all(line.startswith("denseclip: ") for line in lines)
    for word in ("voc20", "context59", "coco-stuff", "RN50.pt", "RN50x16.pt", "ViT-B-16.pt"):
        assert sum(word in line for line in lines) == 1
    assert "VOCtrainval_11-May-2012.tar" in ran.err
    assert "--root" in lines[0]
    assert not list(tmp_path.iterdir())


def test_paper_scale_names_the_folder_and_the_files_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(needs, "cached", lambda entry: tmp_path)
    home = voc(tmp_path)
    (home / "SegmentationClass" / "2007_3.png").unlink()
    with pytest.raises(MissingError) as caught:
        reproduce("table4", "paper", root=tmp_path)
    (line,) = caught.value.lines
    assert "1 of 2 files are missing" in line
    assert "2007_3.png" in line
    with pytest.raises(MissingError, match=r"no folder .*nowhere"):
        reproduce("table4", "paper", root=tmp_path / "nowhere")


def test_weights_are_fetched_only_when_all_data_is_there(tmp_path, monkeypatch):
    def fail(entry):
        raise UserError(f"{entry.label}: cannot be downloaded")

    voc(tmp_path)
    monkeypatch.setattr(needs, "cached", lambda entry: None)
    monkeypatch.setattr(needs, "fetch", fail)
    with pytest.raises(MissingError) as caught:
        reproduce("table4", "paper", root=tmp_path)
    assert [line.split(":")[1].strip() for line in caught.value.lines] == ["RN50", "RN50x16"]


def test_paper_scale_prints_ours_beside_the_published(models, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("DENSECLIP_CACHE", str(tmp_path / "cache"))
    voc(tmp_path)
    one = replace(recipe("table3"), methods=(Method("MaskCLIP", {"templates": "1"}),))
    paper = replace(one.scales["paper"], data={"voc20": "voc20"}, models={"RN50": "RN50"})
    monkeypatch.setattr(table, "recipe", lambda name: replace(one, scales={"paper": paper}))
    report = reproduce(
        "table3",
        "paper",
        models={"RN50": models["RN50"]},
        root=tmp_path,
        out=tmp_path,
        cache=tmp_path / "counts",
    )
    (row,) = json.loads(report.to_json())["rows"]
    assert (row["published"], row["published_by"]) == ("41.5", "paper")
    assert report.protocol["compat"] == "official"
    assert report.protocol["resize"] == "2048x512"
    text = (tmp_path / "table3-paper.md").read_text()
    assert f"{row['mIoU']:.2f} (41.5)" in text
    assert "--root ROOT --model RN50=PATH" in text
    assert str(tmp_path) not in text


def test_command(capsys, models, tmp_path, monkeypatch):
    ran = run(
        capsys, "reproduce", "kspd", "--out", tmp_path, "--limit", 1,
        "-m", f"RN50={models['RN50']}", "-m", f"ViT-B-16={models['ViT-B-16']}",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "PD helps" in ran.out
    assert (tmp_path / "kspd-mini.json").is_file()
    for arguments, said in (
        (("table9",), "table3, table4"),
        (("kspd", "--rows", "trained"), "no trained rows"),
        (("table3", "--model", "RN50"), "write NAME=PATH"),
    ):
        ran = run(capsys, "reproduce", *arguments, "--out", tmp_path)
        assert (ran.code, ran.err.count("\n")) == (2, 1)
        assert said in ran.err
