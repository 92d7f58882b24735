"""The picture of the page in docs/web.md, taken in the system's Chromium.

python tests/web/screenshot.py docs/web.png
"""

import shutil
import sys

from playwright.sync_api import Page, sync_playwright

from denseclip.web.app import serving
from denseclip.web.model_server import ModelServer
from denseclip.web.request import Limits, Origin
from denseclip.web.views import SCENES

EXAMPLE, WORDS, PLACE = 3, "rose|flower, leaves, tile floor, skateboard, sky", (0.62, 0.62)
WAIT = 600_000


def settled(page: Page, text: str) -> None:
    """Wait until the status line says this, and nothing is under way."""
    page.locator("#status", has_text=text).wait_for()
    page.locator("#stage[aria-busy=false]").wait_for()


def main(path: str) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    serve = serving(ModelServer.open(Origin("tiny-rn"), Limits()))
    with serve as (address, _), sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"], timeout=WAIT)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(WAIT)
        page.goto(address)
        settled(page, "the network looked")
        page.locator("#examples button").nth(EXAMPLE).click()
        settled(page, f"scene-{SCENES[EXAMPLE]}")
        page.locator("#words").fill(WORDS)
        page.locator("#code", has_text=WORDS).wait_for()
        settled(page, "from cached features")
        box = page.locator("#picture").bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + PLACE[0] * box["width"], box["y"] + PLACE[1] * box["height"])
        page.locator("#pixel li").first.wait_for()
        page.mouse.move(0, 0)
        page.screenshot(path=path)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
