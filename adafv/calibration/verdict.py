"""Which budget is recommended.

A budget meets the demand if the lower end of its interval does. The smallest such budget of a strategy is its cheapest:
fewer tokens take less time, and measurements of a small sample are noisy. Among strategies, the one whose budget took a
worker the least time is recommended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from adafv.calibration.budgets import Budget
from adafv.calibration.demand import Demand

MEETS, FAILS, UNDECIDED = "meets", "fails", "undecided"


def judge(budget: Budget, demand: Demand) -> str:
    """`meets`, `fails`, or `undecided` if the interval holds values of both kinds."""
    if budget.demanded.low >= demand.least:
        return MEETS
    return FAILS if budget.demanded.high < demand.least else UNDECIDED


def is_beyond(budget: Budget, demand: Demand) -> bool:
    """Whether the sample is too small to show it even if all answers were the unpruned ones."""
    return budget.best.low < demand.least


def rows_needed(budget: Budget, demand: Demand) -> int | None:
    """About how many rows would show it, each on its own image; None if no number would. The interval's width falls
    with the root of the rows, but no fewer show it than if all answers were the unpruned ones."""
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
