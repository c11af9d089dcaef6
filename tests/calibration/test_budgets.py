"""Answers held against each other."""

from __future__ import annotations

import pytest

from adafv.calibration.budgets import Change
from tests.calibration.made import answers, compared

IDS = [f"q{i:03d}" for i in range(200)]
UNPRUNED = answers(dict.fromkeys(IDS, "The red ball."), seconds=0.02)


def changed(count: int, answer: str = "blue"):
    return answers({id: answer if i < count else "The red ball." for i, id in enumerate(IDS)})


def test_equal_answers_agree_by_every_measure_and_the_interval_is_no_point():
    found = compared(UNPRUNED, changed(0))
    assert {estimate.value for estimate in found.agreements.values()} == {1.0}
    low = found.agreements["exact"].low
    assert 0.978 < low < 0.986 and low == found.best.low, "0.025 ** (1 / 200)"
    assert found.changes == ()


def test_measures_differ():
    found = compared(UNPRUNED, changed(100, "red ball is"))
    values = {name: estimate.value for name, estimate in found.agreements.items()}
    assert values == pytest.approx({"exact": 0.5, "normalised": 0.5, "f1": 0.9, "rouge-l": 0.5 + 0.5 * 2 / 3})
    assert compared(UNPRUNED, changed(100, "red ball")).agreements["normalised"].value == 1.0
    assert compared(UNPRUNED, changed(100, "red ball")).agreements["exact"].value == 0.5


def test_rows_that_either_rejected_are_left_out_and_counted():
    pruned = answers(dict.fromkeys(IDS[:150], "The red ball.") | {"stranger": "x"})
    found = compared(answers(dict.fromkeys(IDS[50:], "The red ball.")), pruned)
    assert (found.compared, found.left_out) == (100, 50), "of 150 rows that are labelled unpruned"
    assert found.agreements["exact"].value == 1.0 and found.agreements["exact"].low < 0.97


def test_questions_about_one_picture_count_as_one():
    images = {id: f"{i // 10}.jpg" for i, id in enumerate(IDS)}
    unpruned = answers(dict.fromkeys(IDS, "red"), images=images)
    together = compared(unpruned, answers({id: "blue" if i < 10 else "red" for i, id in enumerate(IDS)}))
    apart = compared(unpruned, answers({id: "blue" if i % 20 == 0 else "red" for i, id in enumerate(IDS)}))
    assert together.agreements["exact"].value == apart.agreements["exact"].value == 0.95
    assert together.agreements["exact"].low < 0.77 < apart.agreements["exact"].low


def test_accuracy_is_compared_on_the_same_rows():
    truth = dict.fromkeys(IDS[:100], ("red ball", "ball"))
    found = compared(UNPRUNED, changed(20), truth, answer_column="answer")
    assert found.answered == 100 and found.accuracy is not None and found.difference is not None
    assert found.accuracy.value == pytest.approx(0.8) and found.difference.value == pytest.approx(-0.2)
    assert found.difference.low < -0.2 < found.difference.high < 0
    assert compared(UNPRUNED, changed(20)).accuracy is None


def test_answers_that_are_as_right_do_not_show_that_all_are():
    found = compared(UNPRUNED, changed(0), dict.fromkeys(IDS, ("red ball",)), answer_column="answer")
    unseen = 1 - 0.025 ** (1 / 200)
    assert found.difference is not None and found.difference.value == 0
    assert (found.difference.low, found.difference.high) == pytest.approx((-unseen, unseen), abs=1e-3)


def test_a_loss_of_accuracy_is_judged_by_the_interval_that_is_shown():
    found = compared(UNPRUNED, changed(3), dict.fromkeys(IDS, ("red ball",)), answer_column="a", max_accuracy_loss=0.02)
    assert found.difference == found.demanded


def test_the_rows_that_changed_most_are_shown():
    found = compared(UNPRUNED, changed(20))
    assert len(found.changes) == 10 and found.changes[0] == Change("q000", "q000?", "The red ball.", "blue")


def test_the_same_answers_give_the_same_figures():
    assert compared(UNPRUNED, changed(20)) == compared(UNPRUNED, changed(20))
