"""Measure the seconds from pressing Create in the studio to the first preview.

    python benchmarks/preview.py [--runs 6]

Needs playwright and Debian's chromium.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import uvicorn
from playwright.sync_api import sync_playwright

from sfumato.web.app import Settings, build

PORT = 7963
# presses the button and waits for a preview: a picture that is sent while the job runs
FIRST = """() => new Promise((done) => {
  const results = document.querySelector("#create .results"), begun = performance.now();
  const watch = new MutationObserver(() => {
    const shown = [...results.querySelectorAll("img")].some((one) => one.src.startsWith("data:"));
    if (!shown) return;
    watch.disconnect();
    done(performance.now() - begun);
  });
  watch.observe(results, { subtree: true, childList: true, attributes: true });
  document.querySelector("#create button[type=submit]").click();
})"""


def serve(folder: str) -> None:
    """Run a server."""
    uvicorn.run(build(Settings(Path(folder))), port=PORT, log_level="error")


def ready() -> bool:
    """Whether the server responds."""
    try:
        return bool(urllib.request.urlopen(f"http://127.0.0.1:{PORT}/healthz", timeout=1))
    except (urllib.error.URLError, OSError):
        return False


def main() -> None:
    """Press Create several times; the first press also loads the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=6)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(folder,))
        server.start()
        while not ready():
            time.sleep(0.2)
        browser = driver.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{PORT}/#create")
        page.wait_for_selector("body[data-ready=create]")
        page.fill("#create [name=count]", "1")
        seconds = []
        for _ in range(runs):
            seconds.append(page.evaluate(FIRST) / 1000)
            page.wait_for_selector("#create button[type=submit]:not([disabled])")
            page.wait_for_timeout(1000)
        browser.close()
        server.terminate()
        server.join()
    print(f"first preview, model not loaded: {seconds[0]:.2f} s")
    print(f"first preview, model loaded: {statistics.median(seconds[1:]):.2f} s (median)")


if __name__ == "__main__":
    main()
