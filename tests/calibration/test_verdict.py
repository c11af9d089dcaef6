"""The rule by which a budget is recommended."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adafv.calibration.demand import Demand
from adafv.calibration.verdict import FAILS, MEETS, UNDECIDED, is_beyond, judge, recommend, rows_needed
from adafv.scoring.bounds import Estimate
from tests.calibration.made import budget

DEMAND = Demand("normalised", 0.9)
ENDS = st.tuples(*(st.floats(0.8, 1) for _ in range(3))).map(lambda ends: sorted(ends))
BUDGETS = st.lists(
    st.builds(
        lambda strategy, keep, ends, seconds: budget(keep, (ends[1], ends[0], ends[2]), strategy, seconds=seconds),
        st.sampled_from(["adafv", "random"]),
        st.sampled_from([0.5, 0.25, 0.1]),
        ENDS,
        st.floats(0.001, 1),
    ),
    unique_by=lambda one: (one.strategy, one.keep),
)


@given(BUDGETS)
def test_what_is_recommended_is_the_cheapest_that_is_shown_to_meet_the_demand(budgets):
    found, meeting = recommend(budgets, DEMAND), [one for one in budgets if one.demanded.low >= 0.9]
    assert (found is None) == (not meeting)
    if found is not None:
        assert found in meeting
        assert all(found.keep <= one.keep for one in meeting if one.strategy == found.strategy)
        best = {name: min((one for one in meeting if one.strategy == name), key=lambda one: one.keep).seconds
                for name in {one.strategy for one in meeting}}  # fmt: skip
        assert found.seconds == min(best.values())


def test_strategies_are_told_apart_by_what_they_take():
    one, other = budget(0.1, seconds=0.02), budget(0.5, strategy="random", seconds=0.01)
    assert recommend([one, other], DEMAND) == other
    assert recommend([one, other, budget(0.25, seconds=0.001)], DEMAND) == other, "not a larger budget's"


@given(BUDGETS, st.randoms())
def test_the_order_of_the_budgets_doesnt_matter(budgets, random):
    times = [replace(one, seconds=0.01 + number / 1000) for number, one in enumerate(budgets)]
    assert recommend(random.sample(times, len(times)), DEMAND) == recommend(times, DEMAND)


@given(BUDGETS, st.floats(0, 1), st.floats(0, 1))
def test_a_lower_demand_never_costs_more(budgets, one, other):
    """Within a strategy."""
    budgets = [each for each in budgets if each.strategy == "adafv"]
    lower, higher = (recommend(budgets, Demand("f1", least)) for least in sorted((one, other)))
    assert higher is None or (lower is not None and lower.keep <= higher.keep)


@pytest.mark.parametrize(
    ("interval", "judged"),
    [
        ((0.95, 0.9, 0.97), MEETS),
        ((0.95, 0.899, 0.97), UNDECIDED),
        ((0.85, 0.8, 0.9), UNDECIDED),
        ((0.85, 0.8, 0.899), FAILS),
    ],
)
def test_the_interval_is_judged_not_the_mean(interval, judged):
    assert judge(budget(agreement=interval), DEMAND) == judged


def test_what_is_demanded_counts():
    one = budget(agreement=(0.5, 0.4, 0.6))
    assert recommend([one], DEMAND) is None
    assert recommend([replace(one, demanded=Estimate(0.95, 0.93, 0.97))], DEMAND) is not None


def test_how_many_rows_may_decide():
    assert rows_needed(budget(agreement=(0.92, 0.88, 0.95)), DEMAND) == 400, "twice as near takes four times the rows"
    assert rows_needed(budget(agreement=(0.9, 0.88, 0.95)), DEMAND) is None
    assert rows_needed(budget(agreement=(1.0, 0.88, 1.0), compared=30), DEMAND) == 44
    assert rows_needed(budget(agreement=(1.0, 0.97, 1.0), compared=122), Demand("f1", 0.98)) == 275


def test_a_sample_that_could_not_show_it():
    assert not is_beyond(budget(), DEMAND) and is_beyond(budget(), Demand("f1", 0.97))
