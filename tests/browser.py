"""A headless Chromium, Debian's, that opens files and nothing else."""

from __future__ import annotations

import base64
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
DESKTOP, PHONE = (1280, 900), (390, 844)


def missing() -> str:
    """What a test that needs a browser lacks; nothing if there is all."""
    absent = [path for path in (CHROMIUM, DRIVER) if not shutil.which(path)]
    return f"{' and '.join(absent)} missing: apt-get install chromium chromium-driver" if absent else ""


class Browser:
    """A page at a time."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def open(self, page: Path, size: tuple[int, int] = DESKTOP, dark: bool = False) -> None:
        """Open a file on a screen of this size, and forget what was logged before."""
        width, height = size
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=size == PHONE,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._command("Emulation.setEmulatedMedia", features=[scheme])
        self._driver.get("about:blank")
        for kind in ("browser", "performance"):
            self._driver.get_log(kind)
        self._driver.get(page.resolve().as_uri())

    def run(self, script: str) -> Any:
        """What a script of the test's own says of the page; the page's policy doesn't bind it."""
        return self._driver.execute_script(script)

    def complaints(self) -> list[str]:
        """What the console says since the page was opened."""
        return [entry["message"] for entry in self._driver.get_log("browser")]

    def requests(self) -> list[str]:
        """What was asked for since the page was opened, but what the page carries in itself."""
        import json

        messages = [json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance")]
        sent = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in sent if not each["request"]["url"].startswith("data:")]

    def photograph(self, first: str | None = None, last: str | None = None) -> bytes:
        """The page as PNG; from the element that a selector names to the end of another, if it is to be a part."""
        size = self._command("Page.getLayoutMetrics")["cssContentSize"]
        top, bottom = 0.0, float(size["height"])
        if first and last:
            places = "[arguments[0], arguments[1]].map(each => document.querySelector(each).getBoundingClientRect())"
            top, bottom = self._driver.execute_script(
                f"const [first, last] = {places}; return [first.top + scrollY - 24, last.bottom + scrollY + 24]",
                first,
                last,
            )
        clip = {"x": 0, "y": max(0.0, top), "width": size["width"], "height": bottom - max(0.0, top), "scale": 1}
        shot = self._command("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])

    def _command(self, name: str, **parameters: Any) -> Any:
        return self._driver.execute_cdp_cmd(name, parameters)


@contextmanager
def started() -> Iterator[Browser]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        try:
            yield Browser(driver)
        finally:
            driver.quit()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    pytest.importorskip("selenium")
    if missing():
        pytest.skip(missing())
    with started() as found:
        yield found
