"""What answers are held to."""

from __future__ import annotations

import pytest

from adafv.calibration.demand import ACCURACY, LOSS, Demand
from adafv.scoring.betting import Betting
from adafv.scoring.bounds import Bounds, Estimate

SAID, UNPRUNED = ["red", "a dog", "two", "left"], ["red", "dog", "three", "right"]
RIGHT = [("red",), ("cat",), ("2",), ("right",)]


def test_scores():
    assert Demand("exact", 0.9).scores(SAID, UNPRUNED, []).tolist() == [1, 0, 0, 0]
    assert Demand("normalised", 0.9).scores(SAID, UNPRUNED, []).tolist() == [1, 1, 0, 0]
    assert Demand("exact", 0.9, ACCURACY).scores(SAID, UNPRUNED, RIGHT).tolist() == [1, 0, 1, 0]
    assert Demand("exact", -0.01, LOSS).scores(SAID, UNPRUNED, RIGHT).tolist() == [0.5, 0.5, 1, 0]


def test_a_loss_is_a_difference_of_accuracies():
    demand = Demand("exact", -0.01, LOSS)
    mean = demand.scores(SAID, UNPRUNED, RIGHT).mean()
    assert demand.figure(mean) == pytest.approx(2 / 4 - 2 / 4) and demand.least_score == pytest.approx(0.495)
    assert demand.estimate(Estimate(0.5, 0.45, 0.55)).low == pytest.approx(-0.1)
    assert Demand("exact", 0.9).figure(0.7) == 0.7


@pytest.mark.parametrize(
    ("demand", "bounds"),
    [
        (Demand("normalised", 0.9), Bounds),
        (Demand("exact", 0.9), Bounds),
        (Demand("rouge-l", 0.9), Betting),
        (Demand("contains", 0.9, ACCURACY), Bounds),
        (Demand("vqa", 0.9, ACCURACY), Betting),
        (Demand("exact", -0.01, LOSS), Betting),
    ],
)
def test_graded_scores_have_a_bound_that_is_proven_for_them(demand, bounds):
    assert type(demand.bounds("ab", 0)) is bounds


def test_in_words():
    assert "f1 agreement" in str(Demand("f1", 0.9)) and Demand("f1", 0.9).promise(0.91239) == "It agrees 0.9123 or more"
    assert str(Demand("vqa", 0.6, ACCURACY)) == "accuracy (vqa) of 0.6 or more"
    loss = Demand("exact", -0.01, LOSS)
    assert "at most 0.01 less" in str(loss) and "at most 0.0091 less" in loss.promise(-0.00901)
    assert "at most 0.0000 less" in loss.promise(0.002), "no bound looks better than it is"


def test_how_many_rows_it_takes_at_least():
    assert Demand("f1", 0.98).fewest_rows() == 183 and Demand("exact", -0.02, LOSS).fewest_rows() == 183
    assert Demand("exact", 0.98, ACCURACY).fewest_rows() is None, "that depends on the model"
