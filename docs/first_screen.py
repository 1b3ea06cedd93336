"""The picture of a report's first screen in README.md.

    python docs/first_screen.py experiments/reports/lora_without_regret.html docs/first_screen.png

It needs `pip install playwright` and an installed Chromium or Chrome.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright


def picture(page_file: Path, image: Path) -> None:
    """Write what a window of 1,280 x 800 pixels shows of a report page, as PNG."""
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(page_file.resolve().as_uri())
        page.wait_for_selector("body[data-drawn]", timeout=60_000)
        page.screenshot(path=image)
        browser.close()


if __name__ == "__main__":
    picture(Path(sys.argv[1]), Path(sys.argv[2]))
