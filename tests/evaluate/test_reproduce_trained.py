"""Tables with trained rows, from two-step trainings of a tiny network."""

import json

import pytest

from cli_support import run
from denseclip.data.published import dataset_spec
from denseclip.data.sticker_sets import open_stickers
from denseclip.errors import UserError
from denseclip.evaluate import presets
from denseclip.evaluate.reproduce import bench
from denseclip.evaluate.reproduce.trained import flow, reproduce_trained, runs, workshop
from denseclip.evaluate.reproduce.trained.runs import Made, choose, runs_of
from denseclip.evaluate.reproduce.trained.sides import Side, Sum
from denseclip.recipes import trained
from denseclip.recipes.trained import parse_table, trained_table, trained_tables
from denseclip.train.recipe import read_recipe, recipe_names
from train_support import small

FILES = ("md", "csv", "json", "png")
TABLE = """
title = "A table"
metrics = ["mIoU", "hIoU"]

[[rows]]
name = "teacher"
method = "MaskCLIP"
data = "voc20"
teacher = true
mini = "guided"

[[rows]]
name = "guided"
method = "MaskCLIP+"
data = "voc20"
mini = "guided"
seeds = 2
published = { table = "table1", method = "DenseCLIP+", clip = "RN50", setting = "zero_shot_transductive" }

[[rows]]
name = "guided, two scales"
method = "MaskCLIP+"
data = "voc20"
mini = "guided"
seeds = 2
test = { scales = [1.0, 1.5] }

[[rows]]
name = "supervised"
method = "fully supervised"
data = "voc20"
mini = "supervised"

[[claims]]
text = "above the teacher by more than is possible"
reason = "Nobody can."
weights = { guided = 1, teacher = -1 }
above = 200

[[claims]]
text = "at most all points below full supervision"
reason = "Everybody can."
weights = { guided = 1, supervised = -1 }
above = -101

[[claims]]
text = "two scales are not all points below one"
reason = "Nobody can fail."
weights = { "guided, two scales" = 1, guided = -1 }
above = -101
paired = true

[[figures]]
name = "over_supervised"
metric = "mIoU"
data = "voc20"
top = { guided = 1 }
bottom = { supervised = 1 }

[[figures]]
name = "itself"
metric = "mIoU"
data = "voc20"
top = { guided = 1 }
"""
PARTS = {"guided": {"hide": "unseen"}, "supervised": {"hide": "none", "guided": "none"}}


def recipe_of(name):
    return small(
        steps=3,
        save_every=0,
        batch=2,
        data={"val": "stickers20", "val_images": 16},
        student={"output_stride": 32},
        labels=PARTS[name],
    )


def shrink(patch):
    """Small scenes, one template, few steps."""
    short = lambda protocol, spec, **changes: {"resize": "none", "templates": "1"} | changes  # noqa: E731
    patch.setattr(bench, "open_dataset", lambda name, root: open_stickers(dataset_spec(name), side=64))
    patch.setattr(bench, "protocol_settings", short)
    patch.setattr(presets, "protocol_settings", short)
    patch.setattr(runs, "read_recipe", recipe_of)
    patch.setattr(flow, "trained_table", lambda name: parse_table(name, TABLE))


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("DENSECLIP_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    shrink(monkeypatch)


def make(folder, **options):
    given = {"out": folder / "out", "runs": folder / "runs", "cache": folder / "counts"}
    return reproduce_trained("table1", **(given | options))


def read(folder):
    return {suffix: (folder / "out" / f"table1-mini.{suffix}").read_bytes() for suffix in FILES}


def figures(folder):
    """The table without how long its trainings took."""
    content = json.loads(read(folder)["json"])
    for row in content["rows"]:
        del row["seconds"]
    return content


class Clock:
    """An hour is over once a training has made a step."""

    def __init__(self, told):
        self.told = told

    def monotonic(self):
        return 3600.0 * any(title.startswith("training") for title, _, _ in self.told)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder in which the whole table has been made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENSECLIP_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        shrink(patch)
        folder = tmp_path_factory.mktemp("whole")
        make(folder)
    return folder


def test_rows_claims_and_named_figures(whole):
    content = json.loads((whole / "out" / "table1-mini.json").read_text())
    assert content["complete"] and len(content["rows"]) == 4
    rows = {row["method"] + row["recipe"] + str(len(row["seeds"])): row for row in content["rows"]}
    assert rows["MaskCLIPguided0"]["mIoU spread"] is None, "a teacher has no seeds"
    guided = content["rows"][1]
    assert guided["seeds"] == [0, 1] and len(guided["per_run"]["mIoU"]) == 2
    assert guided["mIoU"] == pytest.approx(sum(guided["per_run"]["mIoU"]) / 2, abs=0.01)
    assert guided["mIoU spread"] is not None and guided["mIoU published"] == "88.1"
    assert (guided["protocol"]["scales"], content["rows"][2]["protocol"]["scales"]) == ("1", "1, 1.5")
    assert content["rows"][2]["weights"] == guided["weights"], "another evaluation of the same trainings"
    held = {claim["claim"]: claim["held"] for claim in content["claims"]}
    assert list(held.values()) == [False, True, True]
    assert all(claim["held"] or "200" in claim["why"] for claim in content["claims"])
    figures = content["claims_figures"]
    mean = lambda row: sum(row["per_run"]["mIoU"]) / len(row["per_run"]["mIoU"])  # noqa: E731
    assert figures["itself"] == pytest.approx(mean(guided), abs=0.01)
    assert figures["over_supervised"] == pytest.approx(mean(guided) / mean(content["rows"][3]), rel=0.02)
    protocol = content["protocol"]
    assert protocol["teacher"] == "tiny-rn" and protocol["ignored pixels"] == "as in the ground truth"
    assert protocol["training"] == "3 x 2 crops of 32 x 32 px from 6 images"
    assert "2 (guided, stickers20; made: 2)" in protocol["seeds"]
    text = (whole / "out" / "table1-mini.md").read_text()
    assert "(88.1)" in text and "2 of 3 held" in text and str(whole) not in text


def test_rows_that_differ_in_their_test_share_their_trainings(whole):
    names = sorted(path.name.rsplit("-", 1)[0] for path in (whole / "runs").iterdir())
    assert names == ["guided-0", "guided-1", "supervised-0"]


def test_a_second_call_trains_and_counts_nothing(whole, monkeypatch):
    before = read(whole)
    monkeypatch.setattr(workshop, "train", None)
    monkeypatch.setattr("denseclip.segment.segmenter.Segmenter.segment", None)
    make(whole)
    assert read(whole) == before


def test_a_part_is_written_with_what_is_missing(whole, tmp_path):
    said = []
    make(tmp_path, only="supervised", say=said.append)
    content = json.loads((tmp_path / "out" / "table1-mini.json").read_text())
    assert not content["complete"]
    assert [row["missing"] for row in content["rows"]] == ["", "not made yet", "not made yet", ""]
    verdicts = {claim["claim"]: claim["held"] for claim in content["claims"]}
    assert set(verdicts.values()) == {None}
    assert "not measured: guided not made yet" in content["claims"][0]["why"]
    assert "over_supervised" not in content["claims_figures"]
    assert "Not measured" in (tmp_path / "out" / "table1-mini.md").read_text()
    assert "2 of 6 runs are finished" in said[-1]


def test_killed_and_out_of_time_it_ends_with_the_same_figures(whole, tmp_path, monkeypatch):
    def killed(title, done, total):
        if (title, done) == ("training guided, seed 0", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, seeds=1, watch=killed)
    told = []
    make(tmp_path, minutes=0, watch=lambda *one: told.append(one))
    assert not [title for title, _, _ in told if title.startswith("training")], "no time, no training"
    with monkeypatch.context() as patch:  # time is up after the first step of the first training
        patch.setattr(flow, "time", Clock(told))
        told.clear()
        make(tmp_path, minutes=1, watch=lambda *one: told.append(one))
    assert [done for title, done, _ in told if title.startswith("training")] == [1]
    make(tmp_path, seeds=1)
    content = json.loads((tmp_path / "out" / "table1-mini.json").read_text())
    assert [row["missing"] for row in content["rows"]] == ["", "1 of 2 seeds", "1 of 2 seeds", ""]
    assert all(isinstance(claim["held"], bool) for claim in content["claims"])
    make(tmp_path)
    assert figures(tmp_path) == figures(whole)


def test_trainings_belong_to_recipe_seed_and_weights():
    first, *_, last = (run for run in runs_of(parse_table("t", TABLE), "mini", {}) if run.name == "guided")
    assert first.folder("weights") != first.folder("others")
    assert first.folder("weights") != last.folder("weights")
    for changes, same in (({"steps": 4}, False), ({"title": "another", "save_every": 7}, True)):
        changed = runs.Run(first.row, first.name, first.recipe.model_copy(update=changes), 0)
        assert (changed.folder("weights") == first.folder("weights")) == same


def test_a_training_that_fails_leaves_its_row_missing(tmp_path, monkeypatch):
    train = workshop.train

    def failing(recipe, *rest, **options):
        if recipe.labels.hide == "none":
            raise UserError("it cannot be")
        return train(recipe, *rest, **options)

    monkeypatch.setattr(workshop, "train", failing)
    report = make(tmp_path, seeds=1)
    assert report.notes[-1] == "Failed: supervised, seed 0: it cannot be"
    assert [bool(line.made) for line in report.lines] == [True, True, True, False]


class Counted:
    """Figures without counts by image, as of detectors."""

    images = 5

    def __init__(self, ap):
        self.ap = ap

    def summary(self):
        return {"box AP": self.ap}


def test_figures_without_counts_are_compared_by_seeds():
    rows = runs_of(parse_table("t", TABLE), "mini", {})
    guided = [run for run in rows if run.row.name == "guided"]
    high, low = (
        Side(name, "box AP", tuple(Made(r, Counted(ap)) for r, ap in zip(guided, aps, strict=True)))
        for name, aps in (("high", (40.0, 44.0)), ("low", (39.0, 41.0)))
    )
    apart = Sum.of([high, low], [1, -1])
    assert (apart.mean, apart.worst.miou, apart.worst.low, apart.worst.high) == (2.0, -1.0, -1.0, 5.0)
    assert not apart.above(0) and apart.settled and not apart.over_images
    assert Sum.of([high, low], [1, -1], paired=True).worst.miou == 1.0


def test_unknown_names_are_one_line(tmp_path, capsys, monkeypatch):
    with pytest.raises(UserError, match=r"no row has 'resnet' in its name; choose one of guided, supervised"):
        make(tmp_path, only="resnet")
    with pytest.raises(UserError, match=r"no model 'RN101'; it has RN50"):
        make(tmp_path, models={"RN101": "x.pt"})
    monkeypatch.setattr(flow, "trained_table", trained_table)
    for arguments, words in (
        (["table9"], "choose one of ade20k, "),
        (["kspd", "--rows", "trained"], "no trained rows"),
        (["table1", "--rows", "training-free"], "no training-free rows"),
    ):
        ran = run(capsys, "reproduce", *arguments, "--out", tmp_path)
        assert ran.code == 2 and ran.err.count("\n") == 1 and words in ran.err


def test_the_command_makes_a_table(tmp_path, capsys):
    arguments = ["--only", "supervised", "--limit", 1, "--runs", tmp_path / "runs", "--out", tmp_path / "out"]
    ran = run(capsys, "reproduce", "table1", *arguments)
    assert ran.code == 0, ran.err
    assert "supervised, seed 0: trained and evaluated" in ran.out and "not measured" in ran.out
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".md", ".csv", ".json", ".png"}


@pytest.mark.parametrize("name", trained_tables())
def test_rows_of_every_table_name_recipes_and_published_figures(name, monkeypatch):
    monkeypatch.setattr(runs, "read_recipe", read_recipe)
    table = trained_table(name)
    for scale in ("mini", "paper"):
        for one in runs_of(table, scale, {}):
            assert one.name in recipe_names() and one.recipe.data.val
    for row in table.rows:
        assert row.published is None or table.published(row), f"{row.name} has no published figures"
    assert choose(runs_of(table, "mini", {}), None, 1)


def test_a_table_that_is_wrong_is_one_line():
    with pytest.raises(UserError, match="there is no row 'nobody'"):
        parse_table("t", TABLE.replace("bottom = { supervised = 1 }", "bottom = { nobody = 1 }"))
    with pytest.raises(UserError, match=r"table t: rows\.0\.name"):
        parse_table("t", TABLE.replace('name = "teacher"', ""))
    assert trained.trained_tables()
