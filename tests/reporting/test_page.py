"""The page: complete, and harmless whatever the data say."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from adafv.reporting.page import render
from adafv.reporting.report import make_report
from tests.reporting.outputs import label, reject, run, write

SCRIPT = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page(folder: Path, labels: list[dict], rejects: list[dict] | None = None, **values) -> Page:
    return Page(render(make_report(write(folder / "out", labels, [run(**values)], rejects or []))))


def test_what_is_known_is_on_it(tmp_path):
    labels = [label(f"row-{n}", 0.1 * n, after=90 * n, from_text=n, from_saliency=5) for n in range(20)]
    found = page(
        tmp_path, labels, [reject("z", "image_corrupt")], input=21, price=3600.0, worker_seconds=40.0, seconds=10.0
    )
    text = " ".join(found.words)
    for wanted in ("row-0", "row-19", "image_corrupt", "2.00", "40.00", "10.0%", "every row of the last run's input"):
        assert wanted in text, wanted
    assert not found.open, "a tag isn't closed"
    assert sum(tag == "svg" for tag, _ in found.tags) == 6, "a chart is missing"
    assert "USD" in text and "give --price-per-hour" not in text


def test_a_run_that_was_stopped_says_by_what_and_counts_as_ended(tmp_path):
    text = " ".join(page(tmp_path, [label("a")], input=3, status="stopped", stopped_by="max-cost", price=1.0).words)
    assert "stopped by --max-cost" in text and "no recorded end" not in text
    assert "2 rows are neither yet: run the same command again" in text


def test_an_output_without_labels_or_prices(tmp_path):
    text = " ".join(page(tmp_path, [], worker_seconds=1.0).words)
    assert "give --price-per-hour or --prices" in text


@pytest.mark.parametrize("column", ["id", "question", "answer", "run_id", "strategy", "finish_reason"])
def test_nothing_that_came_from_data_is_markup(tmp_path, column):
    labels = [label("a") | ({} if column == "run_id" else {column: SCRIPT})]
    name = SCRIPT.replace("/", "") if column == "run_id" else "r1"
    found = page(tmp_path, labels, name=name, devices=[{"device": SCRIPT, "instance": SCRIPT, "workers": 1}])
    assert not {tag for tag, _ in found.tags} & {"script", "img", "iframe", "object", "link"}
    assert not [attribute for _, given in found.tags for attribute in given if attribute.startswith("on")]
    assert SCRIPT in "".join(found.words)


def test_it_needs_nothing_else(tmp_path):
    found = page(tmp_path, [label("a")], [reject("b", "image_corrupt")])
    named = [given[name] or "" for _, given in found.tags for name in ("src", "href") if name in given]
    assert named and all(name.startswith("#") for name in named)
    policies = [given["content"] for tag, given in found.tags if given.get("http-equiv") == "Content-Security-Policy"]
    assert policies and "default-src 'none'" in (policies[0] or "")
