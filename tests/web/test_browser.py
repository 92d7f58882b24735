"""The page in a real browser, as a visitor uses it. Needs playwright, and chromium on the machine."""

import json
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denseclip.data.stickers import render
from denseclip.web.views import SCENES, SIDE, SPLIT
from page_support import WAIT, answered, write
from web_support import noise, png

pytestmark = pytest.mark.slow


def point(page, row, column):
    box = page.locator("#picture").bounding_box()
    return box["x"] + (column + 0.5) / SIDE * box["width"], box["y"] + (row + 0.5) / SIDE * box["height"]


def taken(page, button):
    with page.expect_download() as download:
        page.get_by_role("button", name=button, exact=True).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def middle_of(scene, name):
    """A pixel well inside what bears a name."""
    import cv2

    where = (scene.labels == scene.names.index(name)).astype(np.uint8)
    return np.unravel_index(cv2.distanceTransform(where, cv2.DIST_L2, 5).argmax(), where.shape)


def test_the_right_word_is_under_a_pixel_and_the_mask_can_be_taken_home(page):
    scene = render(SPLIT, SCENES[0], side=SIDE)
    write(page, "water, horse, car")
    row, column = middle_of(scene, "horse")
    page.mouse.move(*point(page, row, column))
    page.locator("#tip", has_text="horse").wait_for()
    page.mouse.click(*point(page, row, column))
    page.locator("#pixel-hint", has_text=f"Row {row}, column {column}: horse").wait_for()
    assert page.locator("#pixel li").first.inner_text().startswith("horse")

    name, content = taken(page, "Mask PNG")
    mask = np.asarray(Image.open(BytesIO(content)))
    assert name == f"scene-{SCENES[0]}-mask.png"
    assert mask.shape == (SIDE, SIDE)
    assert mask[row, column] == 2  # behind the background and water
    water = scene.labels == scene.names.index("water")
    assert (mask[water] == 1).mean() > 0.8

    write(page, "water, pony|horse, car|onion")  # the same pixel under other words, by itself
    page.locator("#pixel-hint", has_text=": pony").wait_for()
    page.locator("#pixel li", has_text="horse for pony").wait_for()
    name, content = taken(page, "COCO JSON")
    coco = json.loads(content)
    assert name == f"scene-{SCENES[0]}-coco.json"
    assert [category["name"] for category in coco["categories"]] == ["water", "pony", "car"]
    areas = {row["category_id"]: row["area"] for row in coco["annotations"]}
    shown = page.locator("#legend button").first
    assert shown.get_attribute("title").startswith(f"{max(areas.values()):,} pixels")


def test_words_answer_from_cached_features_and_presets_do_not(page):
    answered(page, "the network looked")
    write(page, "water, horse")
    answered(page, "from cached features")
    page.locator("summary", has_text="Model and refinement").click()
    page.locator("#preset").select_option("vanilla")
    answered(page, "the network looked")
    page.locator("#ks").fill("0.9")
    page.locator("#code", has_text="ks=0.9").wait_for()
    answered(page, "from cached features")


def test_background_words_threshold_and_python(page):
    page.locator("#background-kind").select_option("words")
    page.locator("#background").fill("water, sky")
    page.locator("#words-alert", has_text="Prompt 'water' serves").wait_for()
    page.locator("#words").fill("horse, cup")
    page.locator("#code", has_text="--background 'water, sky'").wait_for()
    assert page.locator("#words-alert").is_hidden()
    page.locator("#threshold").fill("0.3")
    page.locator("#code", has_text="--threshold 0.3").wait_for()
    page.locator("#legend", has_text="background").wait_for()
    page.get_by_text("Python", exact=True).click()
    lines = page.locator("#code").inner_text()
    assert "threshold=0.3" in lines
    compile(lines, "page", "exec")


def test_heat_map(page):
    row = page.locator("#legend button", has_text="horse")
    row.click()
    page.locator("#scale").wait_for()
    page.locator("#legend button[aria-pressed=true]", has_text="horse").wait_for()
    low, high = (float(page.locator(f"#{side}").inner_text()) for side in ("low", "high"))
    assert (low, high) == (0, 1)
    assert page.locator("#scale-name").inner_text() == "horse: probability"
    page.locator("#heat-scale").select_option("contrast")
    page.locator("#scale-name", has_text="contrast stretched").wait_for()
    low, high = (float(page.locator(f"#{side}").inner_text()) for side in ("low", "high"))
    assert -1 < low < high < 1
    row.click()
    page.locator("#scale").wait_for(state="hidden")


def test_opacity_shows_the_picture_through(page):
    box = page.locator("#picture").bounding_box()

    def shot():
        return np.asarray(Image.open(BytesIO(page.screenshot(clip=box))).convert("RGB")).astype(float)

    page.mouse.move(1, 1)
    page.locator("#opacity").fill("0")
    clear = shot()
    page.get_by_text("Picture", exact=True).first.click()
    page.locator("#opacity").fill("1")
    assert abs(shot() - clear).mean() < 1
    page.get_by_text("Mask", exact=True).click()
    assert abs(shot() - clear).mean() > 10


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.png", b"just text", "Picture notes.png is no picture in a known format"),
        ("huge.png", b"\x89PNG\r\n\x1a\n", "Picture huge.png"),
        ("big.png", b"x" * (33 * 2**20), "big.png has 33 MiB, more than 32"),
    ],
)
def test_a_bad_file_is_a_message_and_the_page_goes_on(page, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    page.locator("#file").set_input_files(tmp_path / name)
    page.locator("#alert", has_text=message).wait_for()
    assert "Traceback" not in page.locator("body").inner_text()
    page.locator("#examples button").nth(1).click()
    answered(page, f"scene-{SCENES[1]}")
    assert page.locator("#alert").is_hidden()


def test_too_many_words_is_a_message(page):
    page.locator("#words").fill(", ".join(f"thing {i}" for i in range(3000)))
    page.locator("#words-alert", has_text="3,000 words are more than the 200 of this page").wait_for()
    write(page, "water, horse")
    assert page.locator("#words-alert").is_hidden()


def test_a_picture_of_ones_own_stays_in_its_tab_and_after_a_reload(page, browser, page_address):
    upload = {"name": "my noise.png", "mimeType": "image/png", "buffer": png(noise(80, 120))}
    page.locator("#file").set_input_files(upload)
    answered(page, "my noise.png, 120 × 80")
    write(page, "cat, dog, thing")
    page.reload()
    answered(page, "my noise.png")
    assert page.locator("#words").input_value() == "cat, dog, thing"
    other = browser.new_context().new_page()
    other.set_default_timeout(WAIT)
    other.goto(page_address)
    answered(other, "scene-")
    other.context.close()
    name, content = taken(page, "Picture")
    assert name == "my noise.png"
    assert (np.asarray(Image.open(BytesIO(content))) == noise(80, 120)).all()


def test_a_narrow_window_shows_everything_below_each_other(page):
    page.set_viewport_size({"width": 390, "height": 800})
    stage, words = page.locator("#stage").bounding_box(), page.locator("#words").bounding_box()
    assert stage["width"] <= 390
    assert words["y"] > stage["y"] + stage["height"]
    wide = page.locator("html").bounding_box()["width"]
    assert wide <= 390


def test_the_model_is_named(page):
    assert re.fullmatch(
        r"tiny-rn: ResNet, [\d.]+ M parameters, cpu float32", page.locator("#model").inner_text()
    )
    assert "nothing of photographs" in page.locator("#note").inner_text()
