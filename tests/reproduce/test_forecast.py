"""Time and memory of rows, foretold without weights, data or a single picture."""

import pytest
import torch

from denseclip.data.published import dataset_spec
from denseclip.evaluate.costs import cost_of
from denseclip.reproduce.forecast import activations, forecast, foretold, network
from denseclip.reproduce.runs import runs_of
from denseclip.reproduce.tables import read_table, table_names
from denseclip.train.estimate import estimate
from denseclip.train.tasks import build_task
from denseclip.train.training import training_data_or_words

CPU = torch.device("cpu")


def run_of(table, recipe, scale="mini"):
    return next(
        run for run in runs_of(read_table(table), scale) if (run.recipe_name, run.seed) == (recipe, 0)
    )


@pytest.mark.parametrize(
    ("table", "recipe"),
    [("table2a", "stickers20-adapted"), ("ade20k", "stickers59-denseclip"), ("coco", "stickers20-retinanet")],
)
def test_memory_is_about_what_is_measured(table, recipe):
    run = run_of(table, recipe)
    torch.manual_seed(0)
    task = build_task(run.training, training_data_or_words(run.training, None), CPU)
    measured = estimate(task, run.training, CPU).memory
    assert 0.6 < forecast(run, 1e9).memory / measured < 1.6


def test_training_is_three_passes_of_the_student_and_one_of_the_teacher():
    """On a pace of one multiply-accumulate a second, in one process and in four."""
    run = run_of("table3", "voc20-annofree-rn50", "paper")
    alone = run_of("table3", "voc20-supervised", "paper")
    teacher = cost_of("RN50", (512, 512))
    passes = [forecast(one, 1.0).training / one.training.steps / one.training.batch for one in (run, alone)]
    assert passes[0] - passes[1] == pytest.approx(teacher.macs - teacher.text_macs)
    assert forecast(run, 1.0, 4).training == pytest.approx(forecast(run, 1.0).training / 4)
    one, four = forecast(run, 1.0).memory, forecast(run, 1.0, 4).memory
    kept = activations(network(run.training, "voc20"), (512, 512))
    assert one - four == pytest.approx(12 * kept)


def test_evaluation_counts_pictures_windows_scales_and_mirrors():
    rows = runs_of(read_table("ade20k"), "paper")
    plain = next(run for run in rows if run.name == "CLIP RN50")
    several = next(run for run in rows if run.name == "CLIP RN50, multi-scale")
    times = forecast(several, 1.0).evaluation / forecast(plain, 1.0).evaluation
    assert 12 < times < 40  # twelve views, and larger pictures have more windows
    (free,) = (run for run in runs_of(read_table("table4"), "paper") if run.name == "RN50/clean")
    images = sum(part.size for part in dataset_spec("voc20").splits["val"])
    cost = cost_of("RN50", (512, 704))  # 375 x 500 at a short side of 512, in cells of 32
    assert forecast(free, 1.0).evaluation == images * (cost.macs - cost.text_macs)


def test_trainings_that_rows_share_count_once(monkeypatch):
    monkeypatch.setattr("denseclip.reproduce.forecast.measured_pace", lambda device: 1e12)
    runs = [run for run in runs_of(read_table("ade20k"), "mini") if run.recipe_name == "stickers59-denseclip"]
    lines = foretold(runs, CPU)
    assert sum("of training" in line for line in lines) == 1
    assert len(lines) == 3  # two rows, and all of them together


@pytest.mark.slow
@pytest.mark.parametrize("name", table_names())
def test_every_table_can_be_foretold(name):
    lines = foretold(runs_of(read_table(name), "paper"), CPU, 8)
    assert lines[-1].startswith("in all about ") and "8 x CPU" in lines[-1]
