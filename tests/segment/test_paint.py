"""Pictures of masks: what people see is what the numbers say."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from clip_support import tiny_clip
from denseclip.data.stickers import render
from denseclip.segment import paint
from denseclip.segment.paint import PALETTE, cielab, class_colors
from denseclip.segment.segmenter import Segmenter

SIDE = 256


def result(words="cat, dog, sky", **settings):
    from denseclip.loading import make_settings

    made = make_settings(preset="maskclip", templates="1", resize="2048x224", **settings)
    return Segmenter(tiny_clip("rn"), words, made).segment(render("demo", 3, side=SIDE).image)


def quarters(count=4):
    """A result whose mask is `count` vertical stripes of equal width, classes from 0 on."""
    words = ", ".join(f"thing {k}" for k in range(count))
    mask = np.repeat((np.arange(SIDE) * count // SIDE)[None], SIDE, 0).astype(np.uint8)
    return replace(result(words), mask=mask)


def far(one, other):
    return float(np.linalg.norm(cielab(one) - cielab(other)))


@pytest.mark.parametrize("opacity", [0.4, 0.6, 0.9])
def test_a_swatch_looks_like_the_tint_in_the_picture(opacity):
    shown = quarters()
    painted = np.asarray(shown.overlay(opacity=opacity, legend=False)).astype(float)
    swatches = paint.swatches(shown.image, shown.mask, shown.palette, opacity=opacity)
    for k in range(4):
        inside = painted[:, SIDE // 4 * k + 3 : SIDE // 4 * (k + 1) - 3].mean((0, 1))
        assert far(inside, swatches[k]) < 4
    legend = shown.overlay(opacity=opacity).crop((0, SIDE, SIDE, 10_000)).convert("RGB")
    colors = {color for _, color in legend.getcolors(1 << 20)}
    assert {tuple(swatch) for swatch in swatches.tolist()} <= colors


@pytest.mark.parametrize("k", range(8))
def test_a_tint_has_the_hue_of_its_class_over_any_picture(k):
    colors = PALETTE[:8]
    noise = np.random.default_rng(k).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for image in (noise, np.full_like(noise, (0, 160, 0)), np.full_like(noise, (180, 30, 30))):
        tint = paint.overlay(image, np.full((32, 32), k), colors).reshape(-1, 3).mean(0)
        assert np.argmin([far(tint, swatch) for swatch in paint.tints(colors)]) == k


def test_classes_keep_their_color_whatever_the_background():
    plain = result("cat, dog").palette
    assert (result("cat, dog", background="sky").palette[1:] == plain).all()
    assert (class_colors(["cat", "dog"]) == plain).all()
    shown = result("cat, dog", threshold=0.9)
    indexed = np.asarray(shown.indexed().convert("RGB"))
    assert (indexed == shown.palette[shown.mask]).all()


def test_background_is_left_clear():
    shown = result("cat, dog", background="sky")
    mask = np.zeros_like(shown.mask)
    bare = replace(shown, mask=mask)
    assert (np.asarray(bare.overlay(legend=False)) == shown.image).all()
    assert "background" not in bare._repr_html_().partition("<table>")[2]


def test_names_stand_in_the_areas_beyond_32_classes_only(monkeypatch):
    written = []
    draw = paint.with_names
    monkeypatch.setattr(paint, "with_names", lambda *given: written.append(given[1]) or draw(*given))
    quarters(32).overlay()
    assert written[-1] == []
    many = replace(
        result(", ".join(f"t{k}" for k in range(33))), mask=np.arange(33).repeat(40)[None].repeat(200, 0)
    )
    many = replace(many, image=np.zeros((200, 33 * 40, 3), np.uint8))
    many.overlay()
    assert {place.name for place in written[-1]} == set(many.areas)
    for place in written[-1]:
        assert many.classes[many.mask[round(place.y), round(place.x)]] == place.name
    many.overlay(names=False)
    assert len(written) == 2
    quarters(3).overlay(names=True)
    assert [place.name for place in written[-1]] == list(quarters(3).areas)


def test_names_stay_inside_and_do_not_cover_each_other():
    mask = np.zeros((200, 400), np.uint8)
    mask[:, 300:] = 1
    mask[90:110, 90:110] = 2  # too small for its name, and right under that of the large area
    blank = np.zeros((200, 400, 3), np.uint8)
    names = {0: "a large area", 1: "edge", 2: "something with a long name"}
    named = paint.with_names(blank, paint.name_places(mask, names))
    lit = named.any(2)
    assert lit[:, :300].any() and lit[:, 300:].any()
    only = paint.with_names(blank, paint.name_places(mask, {0: "a large area", 1: "edge"}))
    assert (named == only).all()
    assert not lit[[0, -1]].any() and not lit[:, [0, -1]].any()


def test_names_of_large_masks_stand_where_those_of_small_ones_do():
    mask = np.arange(12).reshape(3, 4).repeat(70, 0).repeat(70, 1)
    names = {k: f"t{k}" for k in range(12)}
    small, large = paint.name_places(mask, names), paint.name_places(mask.repeat(16, 0).repeat(16, 1), names)
    assert len(small) == len(large) == 12
    for one, other in zip(small, large, strict=True):
        assert (one.name, abs(16 * one.x - other.x) < 40, abs(16 * one.y - other.y) < 40) == (
            other.name,
            True,
            True,
        )


def test_a_legend_is_sorted_by_area_and_long_ones_end_in_a_count(monkeypatch):
    shown = result()
    assert [entry.name for entry in shown._legend()] == list(shown.areas)
    assert sum(entry.share for entry in shown._legend()) == pytest.approx(1)
    texts = []
    text = paint._entry_text
    monkeypatch.setattr(paint, "_entry_text", lambda entry: texts.append(text(entry)) or text(entry))
    entries = [paint.Entry(f"class {k}", (1, 2, 3), 0.01) for k in range(100)]
    paint.with_legend(np.zeros((50, 300, 3), np.uint8), entries)
    assert len(texts) == paint.LISTED
    assert texts[-1] == "and 41 more 41 %"


@pytest.mark.parametrize(
    ("share", "text"),
    [(1, "100 %"), (0.314, "31 %"), (0.062, "6.2 %"), (0.0001, "< 0.1 %"), (0.0995, "10 %")],
)
def test_shares(share, text):
    assert paint.percent(share) == text


def test_probability_is_that_of_all_classes():
    shown = result("cat, dog, sky")
    every = [shown.probability(name) for name in shown.scored]
    np.testing.assert_allclose(np.sum(every, 0), 1, atol=1e-4)
    for name, plane in zip(shown.scored, every, strict=True):
        assert plane.max() <= shown.peaks[name] + 1e-5 <= 1 + 1e-4
    likeliest = np.argmax(every, 0)
    assert (likeliest == shown.mask).mean() > 0.95  # between positions the soft-max bends the line
    smoothed = result("cat, dog, sky", refine="ks=1")
    np.testing.assert_allclose(np.sum([smoothed.probability(n) for n in smoothed.scored], 0), 1, atol=1e-4)


def test_a_heat_map_names_its_scale(monkeypatch):
    titles = []
    scale = paint.with_scale
    monkeypatch.setattr(paint, "with_scale", lambda *given: titles.append(given[1:]) or scale(*given))
    shown = result()
    wide = shown.heat_overlay("dog")
    stretched = shown.heat_overlay("dog", contrast=True)
    assert wide.width == stretched.width == SIDE
    assert titles[0] == ("dog: probability among 3 classes", "0", "1")
    scores = shown.heatmap("dog")
    assert "contrast stretched" in titles[1][0]
    assert titles[1][1:] == (f"{scores.min():.3f}", f"{scores.max():.3f}")


def test_heat_is_lighter_where_it_is_more_and_the_picture_shows_through():
    image = np.full((2, 256, 3), 128, np.uint8)
    image[1] = 40
    levels = np.repeat(np.linspace(0, 1, 256)[None], 2, 0)
    light = cielab(paint.heat(image, levels))[..., 0]
    assert (np.diff(light, axis=1) > -0.6).all()
    assert light[0, -1] - light[0, 0] > 40
    assert (light[0] - light[1] > 5).all()
    assert (paint.heat(image, levels * 3 - 1)[:, -1] == paint.heat(image, levels)[:, -1]).all()


def test_a_contact_sheet_holds_every_picture_below_its_caption():
    pictures = [Image.new("RGB", (300, 100 + 50 * k), (255, 0, k)) for k in range(5)]
    sheet = paint.contact_sheet(pictures, ["a", "b", "", "d" * 500, "e"], columns=2, side=120)
    assert sheet.shape[1] == 2 * 120 + paint.GAP
    seen = {tuple(pixel) for pixel in sheet.reshape(-1, 3)}
    assert {(255, 0, k) for k in range(5)} <= seen
    assert (sheet[: paint.CAPTION] < 128).any()
    bare = paint.contact_sheet(pictures, [""] * 5, columns=2, side=120)
    assert bare.shape[0] == sheet.shape[0] - 3 * paint.CAPTION


def test_a_smaller_result_looks_the_same():
    large, small = quarters(), quarters().smaller(64)
    assert (small.mask.shape, small.image.shape) == ((64, 64), (64, 64, 3))
    assert small.areas == {name: area // 16 for name, area in large.areas.items()}
    assert small.smaller(64) is small
    shrunk = np.asarray(large.overlay(legend=False).resize((64, 64), Image.Resampling.BOX)).astype(float)
    assert np.abs(np.asarray(small.overlay(legend=False)) - shrunk)[:, 2:14].mean() < 3


def test_a_notebook_shows_overlay_and_legend():
    shown = replace(result("cat & <dog>, sky"), mask=np.zeros((SIDE, SIDE), np.uint8))
    page = shown._repr_html_()
    assert "cat &amp; &lt;dog&gt;" in page and "<dog>" not in page
    assert "100 %" in page
    picture = Image.open(io.BytesIO(base64.b64decode(page.partition("base64,")[2].partition('"')[0])))
    assert (np.asarray(picture) == np.asarray(shown.overlay(legend=False))).all()
    assert shown._repr_png_().startswith(b"\x89PNG")


def test_plot_draws_into_the_axes_it_is_given():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    shown = result("costs $5 or $6, dog, sky")
    axes = Figure().subplots()
    assert shown.plot(axes) is axes
    assert axes.images[0].get_array().shape == (SIDE, SIDE, 3)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(labels) == len(shown.areas)
    assert shown.plot(Figure().subplots(), legend=False).get_legend() is None
    axes.figure.savefig(io.BytesIO())  # "$" starts no formula
