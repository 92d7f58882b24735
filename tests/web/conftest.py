"""A real browser and the page in it. Needs playwright, and chromium on the machine."""

import pytest

from page_support import CHROMIUM, visit


@pytest.fixture(scope="session")
def page_address():
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    from denseclip.web.app import serving
    from denseclip.web.model_server import ModelServer
    from denseclip.web.request import Limits, Origin

    with serving(ModelServer.open(Origin("tiny-rn"), Limits(words=200))) as (address, _):
        yield address


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, page_address):
    """A page with the first example, 1360 pixels wide."""
    with visit(browser, page_address, viewport={"width": 1360, "height": 900}) as shown:
        yield shown
