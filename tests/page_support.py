"""The page in a browser that may reach nothing but the page's server."""

import shutil
from contextlib import contextmanager

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT = 60_000


@contextmanager
def visit(browser, address, **context):
    """A new visitor's page with the first example; errors of its scripts and requests to others fail the test."""
    made = browser.new_context(accept_downloads=True, **context)
    shown = made.new_page()
    shown.set_default_timeout(WAIT)
    troubles: list[str] = []

    def outside(url):
        if not url.startswith((address, "blob:", "data:")):
            troubles.append(f"asked {url}")

    shown.on("pageerror", lambda error: troubles.append(str(error)))
    shown.on("request", lambda request: outside(request.url))
    shown.goto(address)
    answered(shown, "scene-")
    yield shown
    made.close()
    assert not troubles


def answered(page, *texts):
    """Wait until the status line tells of an answer that the legend and picture already show."""
    for text in texts:
        page.locator("#status", has_text=text).wait_for()
    page.locator("#stage[aria-busy=false]").wait_for()


def write(page, words):
    """Type words, wait for their answer: the command shows them."""
    page.locator("#words").fill(words)
    page.locator("#code", has_text=f"--classes '{words}'").wait_for()
    page.locator("#stage[aria-busy=false]").wait_for()
