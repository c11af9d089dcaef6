"""Which budget is recommended.

A budget meets the demand when the lower end of its agreement's interval does. Of a strategy's budgets that meet it,
the smallest is the cheapest: fewer tokens take less time, and a measurement that says otherwise is of a small sample,
or of a machine with other work. Of several strategies, that is the cheapest whose budget took a worker the least time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from adafv.calibration.budgets import Budget
from adafv.scoring.bootstrap import Estimate
from adafv.scoring.bounds import rows_to_show

MEETS, FAILS, UNDECIDED = "meets", "fails", "undecided"


@dataclass(frozen=True)
class Demand:
    """An agreement of at least `least` by `measure`."""

    measure: str
    least: float

    def of(self, budget: Budget) -> Estimate:
        """What is held against it."""
        return budget.agreements[self.measure]

    def judge(self, budget: Budget) -> str:
        """`meets`, `fails`, or `undecided` where the interval holds values of either kind."""
        agreement = self.of(budget)
        if agreement.low >= self.least:
            return MEETS
        return FAILS if agreement.high < self.least else UNDECIDED

    def is_beyond(self, budget: Budget) -> bool:
        """Whether the sample is too small to show it of any budget: even if all rows agreed."""
        return budget.best.low < self.least

    def rows_needed(self, budget: Budget) -> int | None:
        """About how many rows would show it, if these are like those and each is on a picture of its own; None if no
        number would.

        An interval's width falls with the root of the rows, but no fewer show it than if all agreed.
        """
        agreement = self.of(budget)
        if agreement.value <= self.least:
            return None
        times = ((agreement.value - agreement.low) / (agreement.value - self.least)) ** 2
        return max(rows_to_show(self.least), math.ceil(budget.compared * times))


def recommend(budgets: Sequence[Budget], demand: Demand) -> Budget | None:
    """The cheapest budget that meets the demand."""
    smallest: dict[str, Budget] = {}
    for budget in sorted(budgets, key=lambda budget: budget.keep):
        if demand.judge(budget) == MEETS:
            smallest.setdefault(budget.strategy, budget)
    return min(smallest.values(), key=lambda budget: budget.seconds, default=None)
