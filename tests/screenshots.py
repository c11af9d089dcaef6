"""The screenshots of docs/: jobs on testbed scenes, the report and the calibration made of them, and Chromium.

    python -m tests.screenshots docs/

For the report two runs label the scenes and a few rows that are no good, so that there is something to see everywhere.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from adafv.worlds.drawn.dataset import SCHEMA, rows, write_shards
from jobs import calibrate, label, report
from tests.browser import DESKTOP, PHONE, Browser, missing, started

SCENES, MANY_SCENES = 40, 500


def main(folder: Path) -> None:
    if missing():
        sys.exit(missing())
    with tempfile.TemporaryDirectory(prefix="scenes-") as work:
        calibrated, reported, shown = make_calibration(Path(work)), make_report(Path(work)), make_demo(Path(work))
        with started() as browser:
            take(browser, reported, folder)
            browser.open(calibrated, DESKTOP)
            _save(browser.photograph(), folder / "calibrate.png")
            browser.open(shown, DESKTOP)
            _save(browser.photograph("#gallery", ".sample:nth-child(2)"), folder / "gallery.png")


def make_demo(work: Path) -> Path:
    """Of what `make demo` labels: the README's picture."""
    write_shards(work / "demo", rows(36))
    command = ["--input", str(work / "demo"), "--output", str(work / "demo-labels"), "--run-id", "demo"]
    if status := label.main([*command, "--keep", "0.1", "--price-per-hour", "0.10"]):
        sys.exit(f"label.py: exit status {status}")
    page = work / "demo.html"
    if status := report.main([str(work / "demo-labels"), "--html", str(page)]):
        sys.exit(f"report.py: exit status {status}")
    return _relative(page)


def make_calibration(work: Path) -> Path:
    """Of many scenes: intervals are over pictures."""
    write_shards(work / "many", rows(MANY_SCENES))
    page = work / "calibration.html"
    command = ["--input", str(work / "many"), "--output", str(work / "calibration"), "--sample", "600"]
    command += ["--min-agreement", "0.8", "--answer-column", "answer", "--price-per-hour", "0.10"]
    if status := calibrate.main([*command, "--html", str(page)]):
        sys.exit(f"calibrate.py: exit status {status}")
    return _relative(page)


def make_report(work: Path) -> Path:
    """Of two runs, the second of which finds what the first left."""
    write_shards(work / "scenes", rows(SCENES), shard_rows=100)
    pq.write_table(pa.Table.from_pylist(bad_rows(), schema=SCHEMA), work / "scenes" / "part-99999.parquet")
    command = ["--input", str(work / "scenes"), "--output", str(work / "labels"), "--keep", "0.15"]
    command += ["--price-per-hour", "0.10"]
    for more in (["--run-id", "evening", "--limit", "300"], ["--run-id", "morning"]):
        if status := label.main([*command, *more]):
            sys.exit(f"label.py: exit status {status}")
    page = work / "report.html"
    if status := report.main([str(work / "labels"), "--html", str(page)]):
        sys.exit(f"report.py: exit status {status}")
    return _relative(page)


def _relative(page: Path) -> Path:
    """The page, without the name of the temporary folder, which is another each time."""
    page.write_text(page.read_text().replace(f"{page.parent}/", ""))
    return page


def bad_rows() -> list[dict[str, object]]:
    """Rows that are rejected: what they are of, and a picture."""
    [first, second, third, *_] = rows(1, seed=SCENES)
    picture = first["image"]
    assert isinstance(picture, dict)
    return [
        first | {"id": "truncated", "image": {"bytes": picture["bytes"][:400], "path": "truncated.png"}},
        second | {"id": "not-an-image", "image": {"bytes": b"<!doctype html><h1>404", "path": "lost.jpg"}},
        third | {"id": "placeholder", "question": "What does <image> show?"},
        third | {"id": "no-question", "question": "   "},
    ]


def take(browser: Browser, page: Path, folder: Path) -> None:
    browser.open(page, DESKTOP)
    _save(browser.photograph(".over", "section"), folder / "report-light.png")
    browser.open(page, DESKTOP, dark=True)
    _save(browser.photograph("#gallery", ".sample:nth-child(4)"), folder / "report-dark.png")
    browser.open(page, PHONE)
    _save(browser.photograph("#gallery", ".sample"), folder / "report-phone.png")


def _save(png: bytes, path: Path) -> None:
    Image.open(io.BytesIO(png)).convert("RGB").save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
