"""The committed tables: what their JSON holds is what the other files show."""

import json
from pathlib import Path

import pytest

from denseclip.reproduce.report import to_csv, to_markdown
from denseclip.reproduce.runs import runs_of
from denseclip.reproduce.tables import read_table, table_names

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize("name", table_names())
def test_committed_pages_are_made_of_the_stored_figures_alone(name):
    report = json.loads((RESULTS / f"{name}-mini.json").read_text())
    assert to_markdown(report) == (RESULTS / f"{name}-mini.md").read_text()
    assert to_csv(report) == (RESULTS / f"{name}-mini.csv").read_text()
    assert (RESULTS / f"{name}-mini.png").is_file()
    rows = {(row["name"], row["stands_for"]): row for row in report["rows"]}
    planned = runs_of(read_table(name), "mini")
    assert rows.keys() == {run.key for run in planned}
    for run in planned:
        for metric in report["metrics"]:
            assert rows[run.key][metric] == report["claims_figures"].get(run.figure(metric))
