"""Recipes name what exists, and the published figures in them bear out the claims made of them."""

import pytest

from denseclip.clip.hub import is_known
from denseclip.data.published import is_dataset
from denseclip.errors import UserError
from denseclip.evaluate.presets import PROTOCOLS
from denseclip.recipes import TABLES, published, recipe


@pytest.mark.parametrize("name", TABLES)
def test_models_data_and_protocols_exist(name):
    for scale in recipe(name).scales.values():
        assert all(is_known(model) for model in scale.models.values())
        assert all(is_dataset(data) for data in scale.data.values())
        assert scale.protocol in PROTOCOLS


@pytest.mark.parametrize("name", TABLES)
def test_claims_speak_of_methods_and_models_of_their_table(name):
    table = recipe(name)
    methods = {method.name for method in table.methods} | {"chance"}
    models = {model for scale in table.scales.values() for model in scale.models} | {""}
    for claim in table.claims:
        assert set(claim.models) <= models
        for selector in (*claim.higher, *claim.lower):
            model, _, method = selector.rpartition("/")
            assert model in models
            assert method in methods
        assert claim.kind == "falls" or (claim.higher and claim.lower)


def test_published_figures_belong_to_a_row():
    for table, model, data, method in published():
        paper = recipe(table).scales["paper"]
        assert model in paper.models
        assert data in paper.data or (data == "mean" and recipe(table).mean)
        assert method in {each.name for each in recipe(table).methods}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("table3", "RN50", "voc20", "MaskCLIP"), "41.5"),
        (("table3", "RN50x16", "coco-stuff", "MaskCLIP"), "13.6"),
        (("table3", "ViT-B-16", "context59", "MaskCLIP"), "21.7"),
        (("table4", "RN50", "voc20", "speckle_noise 1"), "30.9"),
        (("table5", "RN50x16", "voc20", "jpeg_compression 5"), "36.0"),
        (("variants", "ViT-B-16", "mean", "naclip"), "38.2"),
    ],
)
def test_published_figures(place, value):
    assert published()[place].value == value


def test_tables_4_and_5_are_published_for_every_row():
    for name, levels in (("table4", (1, 5)), ("table5", (1, 2, 3, 4, 5))):
        table = recipe(name)
        assert table.levels == levels
        assert len(table.methods) == 1 + 8 * len(levels)
        for model in table.scales["paper"].models:
            assert all((name, model, "voc20", method.name) in published() for method in table.methods)


def test_the_published_figures_bear_out_what_is_claimed_of_them():
    figures = {place: float(one.value) for place, one in published().items() if "-" not in one.value}
    for table, model, data, _ in list(figures):
        for claim in recipe(table).claims:
            own = [(table, *_place(name, model, data)) for name in (*claim.higher, *claim.lower)]
            if all(place in figures for place in own) and (not claim.models or model in claim.models):
                high = [figures[place] for place in own[: len(claim.higher)]]
                low = [figures[place] for place in own[len(claim.higher) :]]
                if claim.kind == "higher":
                    assert sum(high) / len(high) > sum(low) / len(low)
    for model in ("RN50", "RN50x16"):
        for kind in {method.corruption[0] for method in recipe("table5").methods if method.corruption}:
            names = ["clean", *(f"{kind} {level}" for level in range(1, 6))]
            series = [figures["table5", model, "voc20", name] for name in names]
            assert series == sorted(series, reverse=True)


def _place(selector, model, data):
    own, _, method = selector.rpartition("/")
    return own or model, data, method


def test_an_unknown_table_is_one_line_with_the_known_ones():
    with pytest.raises(UserError, match=r"no recipe 'table9'; choose one of table3, .*variants"):
        recipe("table9")
