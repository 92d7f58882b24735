"""`denseclip reproduce` on rows that are trained, from three-step trainings of a tiny network."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from cli_support import run
from denseclip.clip import load_clip
from denseclip.errors import UserError
from denseclip.models.checkpoint import read_saved
from denseclip.reproduce import reproduce, runner
from denseclip.reproduce.runs import runs_of
from denseclip.reproduce.tables import parse_table

FILES = ("md", "csv", "json", "png")
RECIPE = """
steps = 3
batch = 2
workers = 0
save_every = 0
panel_every = 0
probe_every = 0
data = { train = "stickers20", images = 6, side = 64, val = "stickers20", val_images = 16 }
augment = { crop = [32, 32], ratio = [0.75, 1.5] }
student = { backbone = "resnet18", output_stride = 32, pretrained = false }
teacher = { model = "tiny-rn", official = false }
evaluation = { resize = "short:64" }
"""
LABELS = {"guided": '{ hide = "unseen" }', "supervised": '{ hide = "none", guided = "none" }'}
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
published = { mIoU = "88.1", hIoU = "87.4" }

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


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Class embeddings for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENSECLIP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder, text = tmp_path_factory.mktemp("recipes"), TABLE
    for name, labels in LABELS.items():
        (folder / f"{name}.toml").write_text(f"{RECIPE}labels = {labels}\n")
        text = text.replace(f'mini = "{name}"', f"mini = {str(folder / f'{name}.toml')!r}")
    return parse_table("own", text)


@pytest.fixture
def make(table):
    return lambda folder, **options: reproduce(
        options.pop("table", table), out=folder / "out", runs=folder / "runs", **options
    )


@pytest.fixture(scope="module")
def whole(table, tmp_path_factory):
    """A folder in which the whole table has been made once."""
    folder = tmp_path_factory.mktemp("whole")
    reproduce(table, out=folder / "out", runs=folder / "runs")
    return folder


def read(folder):
    return {suffix: (folder / "out" / f"own-mini.{suffix}").read_bytes() for suffix in FILES}


def figures(folder):
    """The table without how long its trainings took."""
    report = json.loads(read(folder)["json"])
    for row in report["rows"]:
        del row["seconds"]
    return report


def test_rows_claims_and_named_figures(whole):
    report = json.loads(read(whole)["json"])
    assert report["complete"] and len(report["rows"]) == 4
    assert report["models"] == {"tiny-rn": f"weights {load_clip('tiny-rn').fingerprint[:12]}"}
    teacher, guided, scales, supervised = report["rows"]
    assert teacher["mIoU spread"] is None and teacher["seeds"] == [], "a teacher has no seeds"
    assert teacher["low"] <= teacher["mIoU"] <= teacher["high"]
    assert guided["seeds"] == [0, 1] and len(guided["per_run"]["mIoU"]) == 2
    assert guided["mIoU"] == pytest.approx(sum(guided["per_run"]["mIoU"]) / 2, abs=0.01)
    assert guided["mIoU spread"] is not None and guided["mIoU published"] == "88.1"
    assert (guided["protocol"]["scales"], scales["protocol"]["scales"]) == ("1", "1, 1.5")
    assert scales["weights"] == guided["weights"], "another evaluation of the same trainings"
    assert (teacher["clip"], guided["student"]) == ("tiny-rn", "resnet18, aspp_v2, stride 32")
    assert [claim["held"] for claim in report["claims"]] == [False, True, True]
    assert all(claim["held"] or "200" in claim["why"] for claim in report["claims"])
    mean = lambda row: sum(row["per_run"]["mIoU"]) / len(row["per_run"]["mIoU"])  # noqa: E731
    assert report["claims_figures"]["itself"] == pytest.approx(mean(guided), abs=0.01)
    assert report["claims_figures"]["over_supervised"] == pytest.approx(
        mean(guided) / mean(supervised), rel=0.02
    )
    protocol = report["protocol"]
    assert protocol["ignored pixels"] == "as in the ground truth"
    assert protocol["training"] == "3 x 2 crops of 32 x 32 px from 6 images, fp32"
    text = read(whole)["md"].decode()
    assert "± " in text and "(88.1)" in text and "2 of 3 held" in text and str(whole) not in text


def test_rows_that_differ_in_their_test_share_their_trainings_in_fp32(whole):
    names = sorted(path.name.rsplit("-", 1)[0] for path in (whole / "runs").iterdir())
    assert names == ["guided-0", "guided-1", "supervised-0"]
    for path in (whole / "runs").iterdir():
        assert read_saved(path / "last.pt")["recipe"]["precision"] == "fp32"


def test_a_dry_run_foretells_what_is_left(whole, make, tmp_path):
    said = {}
    for folder in (whole, tmp_path):
        lines = said.setdefault(folder, [])
        before = sorted(folder.rglob("*"))
        assert make(folder, dry_run=True, say=lines.append) is None
        assert sorted(folder.rglob("*")) == before
        assert lines[0] == "weights: tiny-rn: there"
    assert (
        sum("of training" in line for line in said[tmp_path]) == 2
    )  # guided, which rows share, and supervised
    assert not any("of training" in line for line in said[whole])


def test_a_second_call_trains_and_counts_nothing(whole, make):
    before, told = read(whole), []
    make(whole, watch=lambda *one: told.append(one))
    assert read(whole) == before
    assert all(title.startswith("counting") and done == total for title, done, total in told)


def test_a_part_is_written_with_what_is_missing(make, tmp_path):
    said = []
    report = make(tmp_path, filter="supervised", say=said.append)
    assert [row["missing"] for row in report["rows"]] == ["", "not made yet", "not made yet", ""]
    assert {claim["held"] for claim in report["claims"]} == {None}
    assert "not measured: guided not made yet" in report["claims"][0]["why"]
    assert "over_supervised" not in report["claims_figures"]
    assert "Not measured" in (tmp_path / "out" / "own-mini.md").read_text()
    assert "2 of 6 runs are finished" in said[-1] and "training steps are left" in said[-1]


def test_killed_and_out_of_time_it_ends_with_the_same_figures(whole, make, tmp_path, monkeypatch):
    def killed(title, done, total):
        if (title, done) == ("training guided, seed 0", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, seeds=1, watch=killed)
    told = []
    make(tmp_path, time_limit=0, watch=lambda *one: told.append(one))
    assert not [title for title, _, _ in told if title.startswith("training")], "no time, no training"
    with monkeypatch.context() as patch:  # an hour is over when a training has made a step
        hours = lambda: 3600.0 * any(title.startswith("training") for title, _, _ in told)  # noqa: E731
        patch.setattr(runner, "time", SimpleNamespace(monotonic=hours))
        told.clear()
        make(tmp_path, time_limit=1, watch=lambda *one: told.append(one))
    assert [done for title, done, _ in told if title.startswith("training")] == [1]
    report = make(tmp_path, seeds=1)
    assert [row["missing"] for row in report["rows"]] == ["", "1 of 2 seeds", "1 of 2 seeds", ""]
    assert all(isinstance(claim["held"], bool) for claim in report["claims"])
    make(tmp_path)
    assert figures(tmp_path) == figures(whole)


def test_trainings_belong_to_recipe_seed_and_weights(table):
    first, last = (run for run in runs_of(table, "mini") if run.name == "guided")
    assert first.folder("weights") != first.folder("others")
    assert first.folder("weights") != last.folder("weights")
    other = next(run for run in runs_of(table, "mini", precision="bf16") if run.name == "guided")
    assert first.folder("weights") != other.folder("weights")
    for changes, same in (({"steps": 4}, False), ({"title": "another", "save_every": 7}, True)):
        changed = type(first)(**{**vars(first), "recipe": first.recipe.model_copy(update=changes)})
        assert (changed.folder("weights") == first.folder("weights")) == same


def test_a_training_that_fails_leaves_its_row_missing(make, tmp_path, monkeypatch):
    train = runner.train

    def failing(recipe, *rest, **options):
        if recipe.labels.hide == "none":
            raise UserError("it cannot be")
        return train(recipe, *rest, **options)

    monkeypatch.setattr(runner, "train", failing)
    report = make(tmp_path, seeds=1)
    assert report["notes"][-1] == "Failed: supervised, seed 0: it cannot be"
    assert [bool(row["runs"]) for row in report["rows"]] == [True, True, True, False]


@pytest.mark.slow
def test_two_processes_make_the_rows_of_one(table, tmp_path):
    """They train together and share the evaluations; a second call finds everything made."""
    (tmp_path / "own.json").write_text(table.model_dump_json())
    script = tmp_path / "job.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from denseclip.reproduce import reproduce\n"
        "from denseclip.reproduce.tables import Table\n"
        "table = Table.model_validate_json(Path('own.json').read_text())\n"
        "out = Path(sys.argv[1])\n"
        "report = reproduce(table, out=out / 'out', runs=out / 'runs', device='cpu', say=print)\n"
        "print('report' if report else 'nothing')\n"
    )
    found = {}
    for processes in (1, 2, 2):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launch += [f"--nproc_per_node={processes}", str(script), f"of{processes}"]
        ran = subprocess.run(launch, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr[-2000:]
        assert ran.stdout.splitlines().count("report") == 1
        assert ran.stdout.splitlines().count("nothing") == processes - 1
        assert ran.stdout.count("6 of 6 runs are finished") == 1
        found[processes] = figures(tmp_path / f"of{processes}")
    assert [row["missing"] for row in found[2]["rows"]] == [""] * 4
    assert found[1]["rows"][0] == found[2]["rows"][0], "the teacher is not trained"
    for one, two in zip(found[1]["rows"], found[2]["rows"], strict=True):
        assert (one["name"], one["planned"]) == (two["name"], two["planned"])


def test_unknown_names_are_one_line(make, tmp_path):
    with pytest.raises(UserError, match=r"no row has 'resnet' in its name; choose one of guided, supervised"):
        make(tmp_path, filter="resnet")
    with pytest.raises(UserError, match=r"own has no model 'RN101'; it has RN50"):
        make(tmp_path, model={"RN101": "x.pt"})


def test_the_command_makes_a_table(tmp_path, capsys):
    """What can be made of a shipped table without time: its teachers."""
    out = tmp_path / "out"
    arguments = ["--rows", "trained", "--filter", "supervised", "--limit", 1, "--time-limit", 0, "--out", out]
    ran = run(capsys, "reproduce", "table1", *arguments, "--runs", tmp_path / "runs")
    assert ran.code == 0, ran.err
    assert "0 of 10 runs are finished; 6000 training steps are left" in ran.out
    assert not out.exists()
