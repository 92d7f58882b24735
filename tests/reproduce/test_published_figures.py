"""The figures in the package against a copy of the papers' tables, one line a figure."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from denseclip.evaluate.costs import PUBLISHED
from denseclip.reproduce.tables import read_table

HERE = Path(__file__).parent
DATA = {
    "voc20": "voc20",
    "coco_stuff164k": "coco-stuff",
    "pascal_context60": "context60",
    "pascal_context59": "context59",
    "ADE20K-150 val": "ade20k",
    "COCO val2017": "coco",
}
GROUPS = {"_seen": "(S)", "_unseen": "(U)", "_SS": "", "_MS": "", "_AP": " AP"}


def lines(name):
    with (HERE / f"{name}_tables.csv").open() as file:
        return list(csv.DictReader(file))


def metric_of(text):
    for ending, ours in GROUPS.items():
        if text.endswith(ending):
            return text.removesuffix(ending) + ours
    return text


def in_package(name):
    """How often each figure stands in a table, by data set and metric."""
    table, found = read_table(name), Counter()
    for row in (*table.rows, *table.others):
        found.update((row.data, metric, text) for metric, text in row.published.items())
    for where in table.published.values():
        found.update((place, "mIoU", text) for place, text in where.items())
    return found


@pytest.mark.parametrize("name", ["1", "2a", "2b", "2c", "3", "4", "5", "6"])
def test_every_published_figure_of_maskclip_is_in_its_table(name):
    wanted = Counter()
    for line in lines("maskclip"):
        if line["table"] == name:
            row = (DATA[line["dataset"]], metric_of(line["metric"]), line["value"])
            wanted[row] = max(wanted[row], 1)
    assert wanted
    assert not wanted - in_package(f"table{name}")


def test_every_published_figure_of_denseclip_is_in_its_table():
    wanted = {"ade20k": Counter(), "coco": Counter()}
    costs = {}
    for line in lines("denseclip"):
        place, metric = DATA[line["dataset"]], metric_of(line["metric"])
        if metric in ("GFLOPs", "params_M"):
            kind = (
                line["table"]
                .removeprefix("segmentation_semantic_")
                .removeprefix("detection_")
                .replace("_", "")
            )
            words = "denseclip-" if line["method"] == "DenseCLIP" else ""
            costs[f"{words}{kind}-{line['backbone'].lower()}", metric] = float(line["value"])
        else:
            wanted[place][place, metric, line["value"]] += 1
    for place, figures in wanted.items():
        assert figures and not figures - in_package(place)
    assert len(costs) == 2 * len(PUBLISHED)
    for (model, metric), value in costs.items():
        row = PUBLISHED[model]
        assert (row.gmacs if metric == "GFLOPs" else row.params) == value
