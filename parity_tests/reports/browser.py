"""A headless Chromium for tests, or the reason why there is none."""

import contextlib
import importlib.util
import shutil
from collections.abc import Iterator
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--no-first-run",
)


def executable() -> str | None:
    """The path of an installed Chromium."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def missing() -> str:
    """Why no browser can be driven; empty where one can."""
    for module in ("playwright", "axe_core_python"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: pip install -e .[test]"
    if executable() is None:
        return "no Chromium is installed: apt-get install chromium"
    return ""


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """A browser of playwright's API; needs `missing` to be empty."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def axe_source() -> str:
    """The text of axe-core's script."""
    from importlib import resources

    return resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
