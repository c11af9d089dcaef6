"""Which budget is recommended.

A budget meets the demand when the lower end of its interval does. Of a strategy's budgets that meet it,
the smallest is the cheapest: fewer tokens take less time, and a measurement that says otherwise is of a small sample,
or of a machine with other work. Of several strategies, that is the cheapest whose budget took a worker the least time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from adafv.calibration.budgets import Budget
from adafv.calibration.demand import Demand

MEETS, FAILS, UNDECIDED = "meets", "fails", "undecided"


def judge(budget: Budget, demand: Demand) -> str:
    """`meets`, `fails`, or `undecided` where the interval holds values of either kind."""
    if budget.demanded.low >= demand.least:
        return MEETS
    return FAILS if budget.demanded.high < demand.least else UNDECIDED


def is_beyond(budget: Budget, demand: Demand) -> bool:
    """Whether the sample is too small to show it of any budget: even if all answers were the unpruned ones."""
    return budget.best.low < demand.least


def rows_needed(budget: Budget, demand: Demand) -> int | None:
    """About how many rows would show it, if these are like those and each is on a picture of its own; None if no
    number would.

    An interval's width falls with the root of the rows, but no fewer show it than if all answers were the unpruned
    ones.
    """
    found = budget.demanded
    if found.value <= demand.least:
        return None
    times = ((found.value - found.low) / (found.value - demand.least)) ** 2
    return max(demand.fewest_rows() or 1, math.ceil(budget.compared * times))


def recommend(budgets: Sequence[Budget], demand: Demand) -> Budget | None:
    """The cheapest budget that meets the demand."""
    smallest: dict[str, Budget] = {}
    for budget in sorted(budgets, key=lambda budget: budget.keep):
        if judge(budget, demand) == MEETS:
            smallest.setdefault(budget.strategy, budget)
    return min(smallest.values(), key=lambda budget: budget.seconds, default=None)
