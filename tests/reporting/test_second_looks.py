"""What a report says of rows that were asked again."""

from __future__ import annotations

import json

import pytest

from adafv.reporting.drawing import draw, first_look
from adafv.reporting.gallery import make_gallery
from adafv.reporting.page import render
from adafv.reporting.report import make_report, summary
from tests.reporting.outputs import label, run, write
from tests.reporting.test_page import SCRIPT, Page

GRID = [{"rows": 2, "columns": 5, "top": 0.0, "left": 0.0, "bottom": 1.0, "right": 1.0}]


def again(id: str, seconds: float, first: str = "red", **values):
    second = {"looks": 2, "keep": 1.0, "first_answer": first, "first_confidence": -0.7, "first_kept_indices": [1, 7]}
    return label(id, seconds, kept_indices=list(range(10)), grid=GRID, **second | values)


@pytest.fixture
def report(tmp_path):
    labels = [label(f"{n}", 1.0, looks=1) for n in range(6)]
    labels += [again("a", 3.0), again("b", 4.0, "blue"), again("c", 5.0, SCRIPT), label("old", 1.0)]
    return make_report(write(tmp_path / "out", labels, [run(input=10, labelled=10, price=3600.0)]))


def test_how_many_and_what_it_took(report):
    found = report.as_json()["second_looks"]
    assert (found["asked_again"], found["changed"]) == (3, 2)
    assert found["gpu_seconds"] == pytest.approx(3 + 4 + 5 - 3 * 1.0)
    assert found["usd"] == pytest.approx(9.0)
    assert sorted(row["id"] for row in found["revised"]) == ["b", "c"]
    assert {row["first_answer"] for row in found["revised"]} == {"blue", SCRIPT}
    text = summary(report)
    assert "3 (30.0%), about 0.003 worker-hours, 9.0000 USD" in text and "2 (66.7% of these)" in text
    assert "changed by a second look, from" in text and "blue" in text
    json.dumps(report.as_json(), allow_nan=False)


def test_reused_labels_took_nothing(tmp_path):
    labels = [label("a"), label("a2", 0.0), again("b", 3.0), again("b2", 0.0)]
    found = make_report(write(tmp_path / "out", labels, [run(input=4)])).as_json()["second_looks"]
    assert (found["asked_again"], found["gpu_seconds"]) == (2, 2.0)


def test_audits_are_no_part_of_what_second_looks_took(tmp_path):
    """An audited row was asked unpruned as well, whether it had one look or two."""
    labels = [label("a"), label("b", 9.0, audit_answer="red"), again("c", 3.0), again("d", 9.0, audit_answer="red")]
    found = make_report(write(tmp_path / "out", labels, [run(input=4)])).as_json()["second_looks"]
    assert (found["asked_again"], found["gpu_seconds"]) == (2, 4.0)
    everything = [label("a"), again("d", 9.0, audit_answer="red")]
    found = make_report(write(tmp_path / "all", everything, [run(input=2)])).as_json()["second_looks"]
    assert (found["asked_again"], found["gpu_seconds"]) == (1, None)


def test_an_output_without_any_says_nothing(tmp_path):
    report = make_report(write(tmp_path / "out", [label("a"), label("b")], [run(input=2)]))
    assert report.as_json()["second_looks"]["asked_again"] == 0
    assert "asked again" not in summary(report) + render(report)


def test_where_all_were_asked_again_the_cost_is_not_known(tmp_path):
    report = make_report(write(tmp_path / "out", [again("a", 3.0)], [run(input=1)]))
    assert report.as_json()["second_looks"]["gpu_seconds"] is None and "1 (100.0%)\n" in summary(report)


def test_changed_rows_have_both_answers_and_both_drawings(report, tmp_path):
    cards = {card.row["id"]: card for card in make_gallery(report, None)}
    assert "revised" in cards["b"].kinds and "revised" not in cards["a"].kinds
    assert ("asked again", "after 2 tokens and a confidence of 0.50") in cards["a"].facts
    first, second = (draw(None, row, "x") for row in (first_look(cards["b"].row), cards["b"].row))
    assert "2 kept tokens" in first and "10 kept tokens" in second
    page = Page(render(report))
    words = " ".join(page.words)
    assert "asked again" in words and "changed by a second look" in words and not page.open
    assert "script" not in {tag for tag, _ in page.tags} and "del" in {tag for tag, _ in page.tags}


def test_of_several_images_the_first_looks_tokens_are_the_first_images():
    images = [{"image": "x", "panels": 1, "visual_tokens": 10, "kept_tokens": 10},
              {"image": "y", "panels": 1, "visual_tokens": 10, "kept_tokens": 10}]  # fmt: skip
    row = again("a", 1.0, first_kept_indices=[1, 7, 13], images=images, kept_cues=[0] * 20)
    assert [image["kept_tokens"] for image in first_look(row)["images"]] == [2, 1]
    assert "2 kept tokens" in draw(None, first_look(row), "x")


def test_audits_are_those_of_the_runs(tmp_path):
    audit = {"rows": 50, "measure": "normalised", "agreement": 0.98, "low": 0.96996, "high": 0.999}
    report = make_report(write(tmp_path / "out", [label("a")], [run(input=1) | {"audit": audit}]))
    assert report.as_json()["audits"] == {"r1": audit}
    assert "50 rows: normalised agreement 0.9800 [0.9699, 0.9990]" in summary(report)
    words = " ".join(Page(render(report)).words)
    assert "98.0%" in words and "[96.9%, 99.9%]" in words and "50 audited rows" in words
