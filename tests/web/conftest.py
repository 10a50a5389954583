"""A browser for the tests of the studio."""

import shutil

import pytest
from PIL import Image
from tests.web.test_serve import serving

from sfumato.tasks.search.index import indexing

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """The address of a server, and a browser."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    folder = tmp_path_factory.mktemp("served")
    pictures = folder / "pictures"
    pictures.mkdir()
    for name in ("red", "green", "blue", "gold"):
        Image.new("RGB", (40, 40), name).save(pictures / f"{name}.png")
    for _ in indexing(pictures, folder / "found", "pca:2"):
        pass
    words = ("--index", str(folder / "found"))
    with serving(folder / "queue", *words) as (_, address), playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield address, browser
        browser.close()


@pytest.fixture
def page(studio):
    """A page that must not say an error."""
    address, browser = studio
    page, said = browser.new_page(viewport={"width": 1280, "height": 800}), []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
    page.goto(address)
    page.wait_for_selector("body[data-ready=create]")
    yield page
    page.close()
    assert said == []


@pytest.fixture
def stranger(studio):
    """A page on which requests may fail."""
    address, browser = studio
    made = browser.new_page(viewport={"width": 1280, "height": 800})
    made.goto(address)
    made.wait_for_selector("body[data-ready=create]")
    yield made
    made.close()
