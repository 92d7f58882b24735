"""docs/reproduce.md: a section a table, whose figures, data, weights and times are the package's."""

import re
from pathlib import Path

import pytest

from denseclip.reproduce.forecast import forecast
from denseclip.reproduce.needs import archives
from denseclip.reproduce.runs import runs_of
from denseclip.reproduce.tables import read_table, table_names

PAGE = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\S+): [^\n]*\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
RTX_3090 = (
    11.5e12  # multiply-accumulates a second: of 0.83 to 0.99 s for a step of 8 crops of 480 px (landscape)
)


def figure_lines(name):
    """A line for each row at paper scale: data, method, recipe or CLIP, and what is published of each metric."""
    table = read_table(name)
    runs = {run.key: run for run in runs_of(table, "paper")}
    if table.levels:
        places = [place for grid in [table.paper] for place in grid.data]
        for model in table.paper.models:
            for kind in dict.fromkeys(one.corruption[0] for one in table.methods if one.corruption):
                names = ["clean", *(f"{kind} {level}" for level in table.levels)]
                shown = [table.published[f"{model}/{one}"][place] for one in names for place in places]
                yield f"| {model} | {kind.replace('_', ' ')} | {' | '.join(shown)} | |"
        return
    for run in runs.values():
        printed = " / ".join(run.published.get(metric, "-") for metric in table.metrics)
        made_with = f"`{run.recipe_name}`" if run.recipe else run.stands_for
        yield f"| {run.place} | {run.method} | {made_with} | {printed.strip('- /') and printed} | |"
    for model, where in table.published.items() if table.mean else ():
        clip, _, method = model.partition("/")
        yield f"| mean | {method} | {clip} | {where['mean']} | |"


def hours(name):
    """Of training and evaluation on one GPU of that pace, and the most memory on as many GPUs as the papers had."""
    trainings, evaluation, memory = {}, 0.0, 0.0
    for run in runs_of(read_table(name), "paper"):
        processes = 4 if run.recipe and run.recipe.system == "maskclip+" else 8
        evaluation += forecast(run, RTX_3090).evaluation
        if run.recipe and run.seed is not None:
            trainings[run.training.model_dump_json()] = forecast(run, RTX_3090).training
            memory = max(memory, forecast(run, RTX_3090, processes).memory)
    return sum(trainings.values()) / 3600, evaluation / 3600, memory / 2**30


def test_every_table_has_its_section_and_no_other_is_there():
    assert tuple(SECTIONS) == table_names()


@pytest.mark.parametrize("name", table_names())
def test_the_figures_of_a_section_are_the_packages(name):
    lines = [line for line in SECTIONS[name].splitlines() if line.startswith("| ")]
    header, rows = lines[0], lines[1:]
    expected = list(figure_lines(name))
    # what somebody measured stands in the last column
    assert [re.sub(r"\|[^|]*\|$", "| |", row) for row in rows] == expected
    assert header.rstrip("| ").endswith("ours")
    if not read_table(name).levels:
        assert " / ".join(read_table(name).metrics) in header


@pytest.mark.parametrize("name", table_names())
def test_a_section_says_what_to_type_and_what_is_needed(name):
    text, runs = SECTIONS[name], runs_of(read_table(name), "paper")
    assert f"denseclip reproduce {name} --scale paper --data-root data" in text
    data = {run.data for run in runs}
    train = any(run.seed is not None for run in runs)
    for archive in archives():
        if data & set(archive["data"]) and (train or not archive.get("train")):
            assert f"`{archive['file']}`" in text
    for clip in {clip for run in runs for clip in run.clips}:
        assert f"`{clip}`" in text
    for word in ("**Data**", "**Weights**", "**Hardware and time**", "**Differences of the official code**"):
        assert text.count(word) == 1


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in table_names()])
def test_the_times_of_a_section_are_foretold(name):
    training, evaluation, memory = hours(name)
    said = re.search(
        r"foretold (?:([\d.]+) GPU-hours of training, |)([\d.]+) of evaluation(?:, ([\d.]+) GiB|)",
        " ".join(SECTIONS[name].split()),
    )
    found = [float(text or 0) for text in said.groups()]
    assert found == pytest.approx([training, evaluation, memory], rel=0.1, abs=0.06)
