"""`denseclip flops`."""

import json

from cli_support import run
from denseclip.evaluate.costs import PUBLISHED


def test_json_of_every_published_model(capsys):
    ran = run(capsys, "flops", "--all", "--json", "--size", "64x96")
    assert ran.code == 0
    figures = json.loads(ran.out)["figures"]
    assert figures.keys() == PUBLISHED.keys()
    for row in figures.values():
        assert row.keys() == {"gmacs", "gmacs_without_text", "params", "params_without_text"}
        assert row["gmacs"] >= row["gmacs_without_text"] > 0


def test_table_with_published_figures_and_reasons(capsys):
    ran = run(capsys, "flops", "denseclip-fpn-rn50", "--per-module")
    assert ran.code == 0
    assert "269.6" in ran.out
    assert "269.2" in ran.out
    assert "without the batch norms" in ran.out
    assert "text_encoder" in ran.out


def test_another_size_has_no_published_figure(capsys):
    ran = run(capsys, "flops", "denseclip-fpn-rn50", "--size", "64x64")
    assert ran.code == 0
    assert "269.2" not in ran.out


def test_clip_by_name(capsys):
    ran = run(capsys, "flops", "RN50", "--size", "64x64", "--json")
    assert json.loads(ran.out)["figures"]["RN50"]["params"] == 102_007_136


def test_mistakes_are_one_line(capsys):
    for arguments in (
        ("flops",),
        ("flops", "RN50", "--all"),
        ("flops", "RN50", "--size", "64"),
        ("flops", "RN51"),
    ):
        ran = run(capsys, *arguments)
        assert ran.code == 2
        assert ran.err.startswith("denseclip: ")
        assert ran.err.count("\n") == 1
