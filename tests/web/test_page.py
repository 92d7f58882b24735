"""What people do with the page, at every width, light and dark; nothing that keeps anyone out."""

import json
import shutil
import subprocess
import tarfile
import tempfile
from base64 import b64encode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from page_support import answered, visit, write
from web_support import noise, png

pytestmark = pytest.mark.slow

WIDTHS, SCHEMES = (360, 800, 1400), ("light", "dark")
AXE = "axe-core@4.10.2"


@pytest.fixture(scope="session")
def axe():
    """The text of axe-core, from the npm registry, kept in the machine's folder of temporary files."""
    npm = shutil.which("npm")
    kept = Path(tempfile.gettempdir()) / f"denseclip-{AXE}.tgz"
    if not kept.exists():
        if npm is None:
            pytest.skip("axe-core comes by npm, which is not on this machine")
        with tempfile.TemporaryDirectory() as folder:
            made = subprocess.run(
                [npm, "pack", AXE, "--silent"], cwd=folder, capture_output=True, check=False, timeout=120
            )
            packed = list(Path(folder).glob("*.tgz"))
            if made.returncode or not packed:
                pytest.skip("axe-core could not be fetched")
            shutil.copy(packed[0], kept.with_suffix(".part"))
            kept.with_suffix(".part").replace(kept)
    with tarfile.open(kept) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


@pytest.fixture(
    params=[(width, scheme) for width in WIDTHS for scheme in SCHEMES], ids=lambda p: f"{p[0]}-{p[1]}"
)
def any_page(request, browser, page_address):
    width, scheme = request.param
    size = {"width": width, "height": 800}
    with visit(browser, page_address, viewport=size, color_scheme=scheme) as shown:
        yield shown


def faults(page, axe):
    """Serious and critical faults that axe-core finds, each with the elements."""
    page.evaluate(axe)
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {[node['target'] for node in one['nodes']][:5]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def look(page, name):
    page.locator(f"input[name=view][value={name}]").check(force=True)
    page.locator(f"#stage[data-view={name}]").wait_for(state="attached")


def give(page, event, files):
    """Paste or drop files {name: bytes}."""
    coded = [[name, b64encode(content).decode()] for name, content in files.items()]
    page.evaluate(
        """([kind, files]) => {
            const data = new DataTransfer();
            for (const [name, coded] of files) {
                const bytes = Uint8Array.from(atob(coded), (c) => c.charCodeAt(0));
                data.items.add(new File([bytes], name, { type: "image/png" }));
            }
            const made = kind === "paste" ? new ClipboardEvent(kind, { clipboardData: data, bubbles: true })
                                          : new DragEvent(kind, { dataTransfer: data, bubbles: true });
            document.body.dispatchEvent(made);
        }""",
        [event, coded],
    )


def test_axe_would_find_a_fault(page, axe):
    page.evaluate("document.querySelector('#open').textContent = ''")
    assert any(fault.startswith("button-name") for fault in faults(page, axe))


def test_nothing_is_cut_off_or_unreadable(any_page, axe):
    page = any_page
    wide = page.viewport_size["width"]
    for summary in page.locator("summary").all():
        summary.click()
    for view in ("mask", "heat", "compare", "picture"):
        look(page, view)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= wide, view
        assert not faults(page, axe), view
    page.locator("#words").fill("water, hor")
    page.locator("#suggestions li").first.wait_for()
    assert not faults(page, axe)
    page.locator("#words").fill("cat, cat")
    page.locator("#words-alert", has_text="given twice").wait_for()
    assert not faults(page, axe)
    page.locator("#keys").click()
    page.locator("#help[open]").wait_for()
    assert not faults(page, axe)


def test_dark_is_dark_and_the_theme_can_be_chosen(any_page):
    def light():
        shot = Image.open(BytesIO(any_page.screenshot())).convert("L")
        return np.asarray(shot)[-40:, :4].mean() > 128

    button = any_page.locator("#theme")
    dark = any_page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert light() != dark
    button.click()
    assert (button.inner_text(), light()) == ("Theme: light", True)
    button.click()
    assert (button.inner_text(), light()) == ("Theme: dark", False)
    any_page.reload()
    answered(any_page, "scene-")
    assert not light()


def test_everything_is_reached_by_tab_and_the_focus_is_seen(page):
    for summary in page.locator("summary").all():
        summary.click()
    page.locator(".skip").focus()
    wanted = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, summary, [tabindex='0']")]
        .filter((one) => one.checkVisibility() && !one.disabled && !(one.type === "radio" && !one.checked)).length"""
    )
    seen = []
    for _ in range(wanted + 20):
        ring = page.evaluate(
            """() => {
                const one = document.activeElement;
                if (one === document.body) return null;
                window.order ??= new Map();
                if (!window.order.has(one)) window.order.set(one, window.order.size);
                const ringed = one.type === "radio" ? one.nextElementSibling : one;
                return [window.order.get(one), getComputedStyle(ringed).outlineStyle, one.id || one.textContent];
            }"""
        )
        if ring is None or (seen and ring[0] == 0):
            break
        seen.append(ring)
        page.keyboard.press("Tab")
    assert len({number for number, *_ in seen}) >= wanted
    assert not [name for _, outline, name in seen if outline == "none" and name != "Skip to the words"]


def test_keys(page):
    page.keyboard.press("?")
    page.locator("#help[open]").wait_for()
    listed = page.locator("#key-list dt").all_inner_texts()
    assert {"m", "h", "c", "p", "n", "b", "w", "u", "+", "0", "?"} <= set(listed)
    page.keyboard.press("Escape")
    page.keyboard.press("h")
    page.locator("#scale").wait_for()
    page.keyboard.press("m")
    page.locator("#scale").wait_for(state="hidden")
    first = page.locator("#examples button[aria-pressed=true] img").get_attribute("alt")
    page.keyboard.press("n")
    page.locator("#examples button[aria-pressed=true] img[alt='example 2']").wait_for()
    answered(page, "scene-")
    page.keyboard.press("b")
    page.locator(f"#examples button[aria-pressed=true] img[alt='{first}']").wait_for()
    answered(page, "scene-")
    page.keyboard.press("w")
    page.keyboard.press("End")
    page.keyboard.type(", h")  # letters are letters in the words
    assert page.locator("#words").input_value().endswith(", h")
    assert page.locator("#scale").is_hidden()
    page.keyboard.press("Escape")
    page.locator("#keys").focus()
    page.keyboard.press("?")
    page.locator("#key-switch").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("h")
    page.wait_for_timeout(200)
    assert page.locator("#scale").is_hidden()


def test_a_point_by_keyboard(page):
    write(page, "water, horse, cup")
    page.locator("#frame").focus()
    for _ in range(16):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("Enter")
    page.locator("#pixel-hint", has_text="Row 255, column 96: ").wait_for()
    assert page.locator("#pixel-hint").get_attribute("role") == "status"


def test_zoom_and_pan(page):
    box = page.locator("#frame").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    width = lambda: page.locator("#picture").bounding_box()["width"]  # noqa: E731
    whole = width()
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.wheel(0, -400)
    while width() < 2.5 * whole:
        page.wait_for_timeout(20)
    assert (
        abs(page.locator("#picture").bounding_box()["x"] + 10 * width() / whole - box["x"] - 10) < 1
    )  # stays
    page.mouse.click(*middle)  # what is under the pointer, also when zoomed
    page.locator("#pixel-hint", has_text="Row ").wait_for()
    row = int(page.locator("#pixel-hint").inner_text().split(",")[0].removeprefix("Row "))
    picture = page.locator("#picture").bounding_box()
    assert abs(row - (middle[1] - picture["y"]) / picture["height"] * 512) < 2
    before = page.locator("#pixel-hint").inner_text()
    page.mouse.down()
    page.mouse.move(middle[0] - 80, middle[1] - 50, steps=4)
    page.mouse.up()
    moved = page.locator("#picture").bounding_box()
    assert (round(moved["x"] - picture["x"]), round(moved["y"] - picture["y"])) == (-80, -50)
    assert page.locator("#pixel-hint").inner_text() == before  # a drag is no click
    page.get_by_role("button", name="Whole picture").click()
    assert width() == whole
    page.get_by_role("button", name="Zoom in").click()
    assert width() > 1.4 * whole
    page.keyboard.press("0")
    assert width() == whole
    assert page.locator("#frame").bounding_box() == box


@pytest.mark.parametrize("event", ["paste", "drop"])
def test_several_pictures_are_pasted_and_dropped(page, event):
    give(page, event, {f"{k}.png": png(noise(80, 120 + k, seed=k)) for k in range(3)})
    answered(page, "0.png, 120 × 80")
    buttons = page.locator("#roll button")
    assert buttons.count() == 3
    words = page.locator("#words").input_value()
    buttons.nth(2).click()
    answered(page, "2.png, 122 × 80", "the network looked")
    assert page.locator("#words").input_value() == words
    page.keyboard.press("n")  # the first follows the last
    answered(page, "0.png", "from cached features")
    page.reload()
    answered(page, "0.png")
    assert page.locator("#roll button").count() == 3
    assert page.locator("#roll button").nth(0).get_attribute("aria-pressed") == "true"


def test_a_bad_file_among_good_ones(page):
    give(page, "drop", {"notes.png": b"just text", "good.png": png(noise(80, 120))})
    answered(page, "good.png")
    page.locator("#alert", has_text="Picture notes.png is no picture").wait_for()
    assert page.locator("#roll button").count() == 1


def test_words_are_undone_and_redone(page):
    words, undo, redo = page.locator("#words"), page.locator("#undo"), page.locator("#redo")
    first = words.input_value()
    assert undo.is_disabled()
    assert redo.is_disabled()
    write(page, "water, horse")
    page.wait_for_timeout(700)
    write(page, "water, cup")
    undo.click()
    page.locator("#code", has_text="--classes 'water, horse'").wait_for()
    undo.click()
    assert words.input_value() == first
    assert undo.is_disabled()
    redo.click()
    words.press("Control+Shift+z")
    page.locator("#code", has_text="--classes 'water, cup'").wait_for()
    page.locator("#examples button").nth(1).click()  # brings words of its own
    answered(page, "scene-10")
    words.press("Control+z")
    assert words.input_value() == "water, cup"


def test_words_are_suggested_from_class_sets(page):
    words = page.locator("#words")
    words.fill("water, she")
    page.locator("#suggestions li", has_text="sheep").first.wait_for()
    page.locator("#suggested", has_text="suggested; arrow down").wait_for()
    assert words.get_attribute("aria-activedescendant") is None
    words.press("ArrowDown")
    chosen = page.locator("#suggestions li[aria-selected=true]")
    assert chosen.get_attribute("id") == words.get_attribute("aria-activedescendant")
    word = chosen.evaluate("one => one.firstChild.textContent")
    words.press("Enter")
    assert words.input_value() == f"water, {word}"
    assert page.locator("#suggestions").is_hidden()
    page.locator("#sets").select_option("voc")
    assert len(words.input_value().split(",")) in (21, 22)
    words.press("Control+z")
    assert words.input_value() == f"water, {word}"
    words.fill("voc")
    page.locator("#suggestions li", has_text="class set of 20 words").click()
    assert len(words.input_value().split(",")) == 20


def test_absent_words_are_shown_as_such(page):
    write(page, f"{page.locator('#words').input_value()}, cat")
    absent = page.locator("#absent li", has_text="apple")
    absent.wait_for()
    assert "at most" in absent.inner_text()
    assert page.locator("#legend li", has_text="apple").count() == 0
    assert (
        f"{page.locator('#absent li').count()} not in the picture" in page.locator("#status").text_content()
    )
    write(page, "water, horse")
    assert page.locator("#absent").is_hidden()


def test_names_stand_in_the_areas_of_many_classes(page):
    def written():
        return page.locator("#names").evaluate(
            "one => one.getContext('2d').getImageData(0, 0, one.width, one.height).data.some((part) => part > 0)"
        )

    assert not written()
    page.locator("#background-kind").select_option("none")
    page.locator("summary", has_text="Model and refinement").click()
    page.locator("#edges").select_option("none")  # the filter smooths the smallest areas away
    page.locator("#examples button").nth(2).click()
    answered(page, "scene-3.png")
    page.locator("#words").fill("")
    page.locator("#sets").select_option("ade")
    page.locator("#legend li").nth(33).wait_for()
    answered(page)
    assert written()
    look(page, "picture")
    assert not written()


def test_words_beside_each_other(page):
    write(page, "water, horse, cup, onion, banana, dog, car")
    look(page, "compare")
    figures = page.locator("#comparison figure")
    figures.nth(2).wait_for()
    assert figures.count() == 3
    assert page.locator("#scale-name").inner_text() == "each word: probability"
    page.locator("#compared label", has_text="dog").click()
    page.locator("#comparison figcaption", has_text="dog").wait_for()
    for word in ("car", "onion", "banana"):
        box = page.locator("#compared label", has_text=word).locator("input")
        if not box.is_checked() and box.is_enabled():
            box.check()
    page.locator("#comparison figure").nth(5).wait_for()
    assert page.locator("#compared input:not(:checked)").first.is_disabled()
    levels = page.evaluate(
        "() => [...document.querySelectorAll('canvas.over')].map((one) => one.toDataURL())"
    )
    assert len(set(levels)) >= 3  # not the same map under every name


def test_refinement_by_switch(page):
    page.locator("summary", has_text="Model and refinement").click()
    switch = page.get_by_role("switch", name="Smoothing")
    switch.check()
    page.locator("#code", has_text="--refine ks=1").wait_for()
    page.locator("#ks").fill("0.8")
    page.locator("#code", has_text="--refine ks=0.8").wait_for()
    switch.uncheck()
    page.locator("#ks + output", has_text="off").wait_for()
    page.locator("#code:not(:has-text('refine'))").wait_for()
    switch.check()  # as it was before
    page.locator("#code", has_text="--refine ks=0.8").wait_for()
    page.locator("#pd").fill("0.3")
    assert page.get_by_role("switch", name="Denoising").is_checked()
    page.locator("#edges").select_option("pamr")
    page.locator("#code", has_text="pd=0.3+ks=0.8+pamr").wait_for()
    page.locator("#edges").select_option("none")
    page.locator("#code:not(:has-text('pamr'))", has_text="--refine pd=0.3+ks=0.8").wait_for()


def test_swatches_look_like_the_tints(page):
    write(page, "water, horse, cup")
    page.mouse.move(1, 1)
    for opacity in ("0.4", "0.6", "0.9"):
        page.locator("#opacity").fill(opacity)
        shot = np.asarray(Image.open(BytesIO(page.screenshot(full_page=True))).convert("RGB")).astype(float)
        swatch = page.locator("#legend li", has_text="water").locator("i").bounding_box()
        picture = page.locator("#picture").bounding_box()
        x, y = round(swatch["x"] + 8), round(swatch["y"] + 8)
        below = shot[round(picture["y"] + 0.8 * picture["height"]) :][: round(0.18 * picture["height"])]
        tint = below[:, round(picture["x"] + 5) : round(picture["x"] + 0.9 * picture["width"])].mean((0, 1))
        assert np.abs(shot[y, x] - tint).max() < 14, (opacity, shot[y, x], tint)


def test_a_finger_scrolls_the_whole_picture_and_moves_a_zoomed_one(browser, page_address):
    with visit(browser, page_address, viewport={"width": 360, "height": 740}, has_touch=True) as page:
        frame = page.locator("#frame")
        assert frame.evaluate("one => getComputedStyle(one).touchAction") == "pan-y"
        page.get_by_role("button", name="Zoom in").tap()
        assert frame.evaluate("one => getComputedStyle(one).touchAction") == "none"
        for button in page.locator("#zoom button").all():
            box = button.bounding_box()
            assert min(box["width"], box["height"]) >= 24
        assert json.loads(page.evaluate("JSON.stringify([innerWidth, document.body.scrollWidth])")) == [
            360,
            360,
        ]
