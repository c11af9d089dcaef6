"""The page: complete, and harmless whatever the data say."""

from __future__ import annotations

import pytest

from adafv.calibration.budgets import Change
from adafv.calibration.page import render
from adafv.scoring.bounds import Estimate
from tests.calibration.made import budget, calibration
from tests.reporting.test_page import SCRIPT, Page


def test_what_is_known_is_on_it():
    accuracy = {"answered": 100, "accuracy": Estimate(0.8, 0.7, 0.9), "difference": Estimate(-0.1, -0.2, 0.0)}
    budgets = [budget(0.5, (0.96, 0.92, 0.98), **accuracy), budget(0.1, (0.7, 0.6, 0.8), **accuracy)]
    found = Page(render(calibration(*budgets, answer_column="answer", price=1.0)))
    text = " ".join(found.words)
    for wanted in (
        "Recommended: adafv with --keep 0.5", "0.9200 - 0.9800", "python jobs/label.py", "USD per 1,000", "what?",
        "Agreement (normalised) over cost", "Accuracy (exact) over cost", "red", "blue", "fails",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert not found.open, "a tag isn't closed"
    assert sum(tag == "svg" for tag, _ in found.tags) == 2 and sum(tag == "circle" for tag, _ in found.tags) == 6


def test_without_accuracy_or_a_recommendation():
    found = Page(render(calibration(budget(0.5, (0.7, 0.6, 0.8), changes=()))))
    assert sum(tag == "svg" for tag, _ in found.tags) == 1 and "pre" not in dict(found.tags)
    assert "worker ms" in " ".join(found.words) and "What changes" not in " ".join(found.words)


def test_figures_that_are_all_the_same_can_be_drawn():
    Page(render(calibration(budget(0.5, (1.0, 1.0, 1.0), seconds=0.02), min_agreement=0.999)))


@pytest.mark.parametrize("place", ["change", "input"])
def test_nothing_that_came_from_data_is_markup(place):
    change = Change(SCRIPT, SCRIPT, SCRIPT, SCRIPT)
    given = {"input": (SCRIPT,)} if place == "input" else {}
    found = Page(render(calibration(budget(0.5, (0.96, 0.92, 0.98), changes=(change,)), **given)))
    assert not {tag for tag, _ in found.tags} & {"script", "img", "iframe", "object", "link"}
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert not [attributes for _, attributes in found.tags if "src" in attributes or "href" in attributes]
    policies = [given["content"] for _, given in found.tags if given.get("http-equiv") == "Content-Security-Policy"]
    assert policies and "default-src 'none'" in (policies[0] or "")
