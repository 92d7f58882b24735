"""The tables name what exists, and the published figures in them bear out the claims made of them."""

from collections import Counter

import pytest
from pydantic import ValidationError

from denseclip.clip.pretrained import is_known
from denseclip.data.published import is_dataset
from denseclip.errors import UserError
from denseclip.evaluate.run import PROTOCOLS
from denseclip.reproduce.claims import check_claims
from denseclip.reproduce.report import describe, draw, to_csv, to_markdown
from denseclip.reproduce.runs import runs_of
from denseclip.reproduce.tables import CHANCE, parse_table, read_table, table_names
from denseclip.train.recipe import recipe_names
from reproduce_support import finish

GRIDS = [name for name in table_names() if read_table(name).methods]
SCALES = ("mini", "paper")


def names_of(table):
    """Everything that a claim can be about."""
    models = {model for grid in (table.mini, table.paper) if grid for model in grid.models}
    methods = {method.name for method in table.methods} | ({CHANCE} if models else set())
    return (
        {row.name for row in table.rows}
        | methods
        | {f"{one}/{method}" for one in models for method in methods}
    )


def test_all_tables_of_both_papers_are_there():
    tables = (
        "ade20k coco kspd table1 table2a table2b table2c table3 table4 table5 table6 trainingfree variants"
    )
    assert list(table_names()) == tables.split()
    with pytest.raises(UserError, match=r"no table 'table9'; choose one of ade20k, .*variants"):
        read_table("table9")


@pytest.mark.parametrize("name", table_names())
def test_a_table_fits_together(name):
    table = read_table(name)
    names = names_of(table)
    assert max(Counter((row.name, row.data) for row in table.rows).values(), default=1) == 1
    for row in table.rows:
        assert row.paper or row.mini
        assert not (row.teacher and row.seeds > 1), "a teacher is not trained"
        assert set(row.published) <= set(table.metrics)
    for claim in table.claims:
        assert {*claim.weights, *claim.rows, *claim.teachers} <= names
        assert bool(claim.weights) == (claim.kind == "above")
        assert bool(claim.rows) == (claim.kind in ("follows", "within"))
        assert len(claim.teachers) == (len(claim.rows) if claim.kind == "follows" else 0)
        assert (claim.points > 0) == (claim.kind == "within")
        assert claim.reason or table.methods
    for figure in table.figures:
        assert {*figure.top, *figure.bottom} <= names
        assert figure.metric in table.metrics
    for grid in (table.mini, table.paper) if table.methods else ():
        assert all(is_known(model) for model in grid.models.values())
        assert all(is_dataset(data) for data in grid.data.values())
        assert grid.protocol in PROTOCOLS
    for row, where in table.published.items():
        assert row in names and row.partition("/")[0] in table.paper.models
        assert set(where) <= {*table.paper.data, *(["mean"] if table.mean else [])}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", table_names())
def test_a_whole_table_has_rows_claims_and_named_figures(name, scale):
    """From made-up figures, without any model."""
    table = read_table(name)
    planned = runs_of(table, scale)
    assert all(run.recipe_name in recipe_names() for run in planned if run.recipe)
    report = describe(table, scale, "a command", planned, finish(planned), [])
    assert report["complete"]
    assert len(report["rows"]) == len({run.key for run in planned})
    assert sum(row["runs"] for row in report["rows"]) == len(planned)
    assert report["claims"]
    for claim in report["claims"]:
        assert isinstance(claim["held"], bool)
        assert claim["held"] or claim["why"]
        assert len(claim["interval"]) == 2
        assert report["claims_figures"][f"difference: {claim['claim']}"] == claim["figures"]["difference"]
    for row in report["rows"]:
        for metric in table.metrics:
            assert len(row["per_run"][metric]) == (row["runs"] if row[metric] is not None else 0)
        assert (row["low"] is None) == bool(
            row["command"]
        )  # only rows without training have an interval over images
    for spec in table.figures:
        assert (spec.name in report["figures"]) == (spec.name in report["claims_figures"])
    text = to_markdown(report)
    assert text.startswith(f"# {table.title} ({scale})\n\n`a command`")
    assert f"{sum(claim['held'] for claim in report['claims'])} of {len(report['claims'])} held" in text
    assert len(to_csv(report).splitlines()) == 2 + len(report["protocol"]) + len(report["rows"])
    for other in table.others:
        assert f"| {other.data} | {other.method} | " in text


@pytest.mark.parametrize("name", table_names())
def test_rows_that_are_missing_are_said_to_be(name):
    table = read_table(name)
    planned = runs_of(table, "mini")
    some = finish([run for run in planned if run.key == planned[0].key])
    report = describe(table, "mini", "a command", planned, some, [])
    assert not report["complete"]
    assert sum(not row["missing"] for row in report["rows"]) == 1
    assert "not made yet" in to_markdown(report)


@pytest.mark.parametrize("made", ["clean", "spatter 1", "spatter", ""])
def test_a_table_of_levels_is_drawn_as_far_as_it_is_made(made, tmp_path):
    """Such as with --filter spatter, where the clean pictures are not evaluated."""
    table = read_table("table4")
    planned = runs_of(table, "mini")
    some = finish([run for run in planned if made in run.method])
    draw(describe(table, "mini", "a command", planned, some, []), tmp_path / "some.png")
    assert (tmp_path / "some.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("table", "row", "data", "value"),
    [
        ("table3", "RN50/MaskCLIP", "voc20", "41.5"),
        ("table3", "RN50x16/MaskCLIP", "coco-stuff", "13.6"),
        ("table3", "ViT-B-16/MaskCLIP", "context59", "21.7"),
        ("table4", "RN50/speckle_noise 1", "voc20", "30.9"),
        ("table5", "RN50x16/jpeg_compression 5", "voc20", "36.0"),
        ("variants", "ViT-B-16/naclip", "mean", "38.2"),
        ("trainingfree", "ViT-B-16/sc-clip", "voc21", "64.6"),
        ("table1", "maskclip+", "voc20", "88.1"),
        ("ade20k", "DenseCLIP RN50", "ade20k", "43.5"),
    ],
)
def test_published_figures(table, row, data, value):
    one = read_table(table)
    printed = {
        (found.name, found.data): found.published["mIoU"] for found in one.rows if "mIoU" in found.published
    }
    printed |= {(name, place): text for name, where in one.published.items() for place, text in where.items()}
    assert printed[row, data] == value


def test_tables_4_and_5_are_published_for_every_row():
    for name, levels in (("table4", (1, 5)), ("table5", (1, 2, 3, 4, 5))):
        table = read_table(name)
        assert table.levels == levels
        assert len(table.methods) == 1 + 8 * len(levels)
        for model in table.paper.models:
            assert all("voc20" in table.published[f"{model}/{method.name}"] for method in table.methods)
            for kind in {method.corruption[0] for method in table.methods if method.corruption}:
                series = [f"{model}/{one}" for one in ("clean", *(f"{kind} {level}" for level in levels))]
                figures = [float(table.published[row]["voc20"]) for row in series]
                assert figures == sorted(figures, reverse=True)


@pytest.mark.parametrize("name", GRIDS)
def test_published_figures_bear_out_what_is_claimed_of_them(name):
    table = read_table(name)
    for claim in table.claims:
        for model in claim.models or table.paper.models:
            rows = {
                name if "/" in name else f"{model}/{name}": weight for name, weight in claim.weights.items()
            }
            for place in {**table.paper.data, "mean": ""}:
                printed = [table.published.get(row, {}).get(place, "-") for row in rows]
                if rows and not any("-" in text for text in printed):
                    assert sum(w * float(text) for w, text in zip(rows.values(), printed, strict=True)) > 0


def test_every_claim_can_be_asked_at_some_scale():
    for name in table_names():
        table = read_table(name)
        asked = set()
        for scale in SCALES:
            planned = runs_of(table, scale)
            asked |= {
                claim.claim.partition(" (")[0].partition(": ")[0]
                for claim in check_claims(table, planned, {})
            }
        for claim in table.claims:
            text = claim.text.partition(": ")[0].partition("{")[0]
            assert any(one.startswith(text) for one in asked), claim.text


def test_unknown_keys_are_errors():
    for text in (
        "rows = 3\nclaims = []",
        'color = "red"\nclaims = []',
        '[[claims]]\ntext = "a"\nabove_all = 3',
    ):
        with pytest.raises(ValidationError):
            parse_table("own", f'title = "Own"\n{text}')
