"""Thresholds that differ by stratum: by what a column of the input says of a row, such as the type of its question.

Both keep ratios are the same for all rows, so that a batch is pruned and answered together; what differs is the
threshold of second looks. Each stratum that has enough rows walks down the thresholds by itself, on its own rows. The
error is divided by the pairs of keep ratios and by the strata, so that the promise holds in all of these strata at
once. The other rows get the threshold that is shown for all rows together: that promises nothing for them alone.

Whether there are enough rows is decided by their number alone, before anybody looks at the answers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adafv.calibration.answers import Answers
from adafv.calibration.cascades import ERROR, Cascade, CascadeFamily
from adafv.calibration.demand import Demand
from adafv.calibration.options import CalibrationOptions
from adafv.calibration.second_looks import Labelled, families
from adafv.calibration.truth import Truth

FEWEST = 30  # rows of a stratum, where the demand doesn't say how many it takes


@dataclass(frozen=True)
class StratumPlan:
    """What is done with one stratum's rows.

    Attributes:
        cascade: with what came of it in the stratum.
        own: whether the threshold is shown for the stratum; otherwise it is the one for all rows.
    """

    stratum: str
    rows: int
    cascade: Cascade
    own: bool


@dataclass(frozen=True)
class Stratified:
    """Plans by stratum, the largest first; `common`: what rows of no or another stratum get."""

    column: str
    plans: tuple[StratumPlan, ...]
    common: Cascade

    @property
    def tokens(self) -> float:
        """That the language model takes, a sample: prompt and answer."""
        return self._mean([plan.cascade.tokens for plan in self.plans])

    @property
    def escalated_share(self) -> float:
        return self._mean([plan.cascade.escalated_share for plan in self.plans])

    @property
    def agreement(self) -> float:
        return self._mean([plan.cascade.agreement for plan in self.plans])

    def _mean(self, values: Sequence[float]) -> float:
        rows = [plan.rows for plan in self.plans]
        return sum(each * many for each, many in zip(values, rows, strict=True)) / sum(rows)

    @property
    def thresholds(self) -> str:
        """For `--thresholds`."""
        return json.dumps({self.column: {plan.stratum: plan.cascade.threshold for plan in self.plans if plan.own}})


def stratify(
    options: CalibrationOptions,
    unpruned: Answers,
    labelled: Labelled,
    truth: Truth,
    strata: Mapping[str, str],
    common: Sequence[CascadeFamily],
) -> Stratified | None:
    """The plans of that pair of keep ratios whose looks take the fewest tokens; None where no stratum has its own.

    Args:
        strata: of which one each row is, by id.
        common: the families on all rows.
    """
    assert options.stratify is not None
    sizes = Counter(strata[id] for id in unpruned.rows if id in strata)
    many = _large_enough(list(sizes.values()), options.demand, len(common))
    large = [stratum for stratum, _ in sizes.most_common(many)]
    walks = {
        stratum: families(options, unpruned, labelled, truth, only, max(1, len(large)))
        for stratum in sizes
        if (only := {id for id in unpruned.rows if strata.get(id) == stratum})
    }
    found = [
        Stratified(options.stratify, plans, family.chosen)
        for family in common
        if family.chosen is not None and (plans := _plans(family, walks, large, sizes))
    ]
    own = [one for one in found if any(plan.own for plan in one.plans)]
    return min(own, key=lambda one: one.tokens, default=None)


def _large_enough(sizes: Sequence[int], demand: Demand, pairs: int) -> int:
    """How many of the strata, the largest, have the rows that it takes to show the demand in so many of them."""
    largest = sorted(sizes, reverse=True)
    needed = [demand.fewest_rows(ERROR / (pairs * many)) or FEWEST for many in range(1, len(largest) + 1)]
    return max((many for many, least in enumerate(needed, 1) if largest[many - 1] >= least), default=0)


def _plans(
    common: CascadeFamily,
    walks: Mapping[str, Sequence[CascadeFamily]],
    large: Sequence[str],
    sizes: Counter[str],
) -> tuple[StratumPlan, ...]:
    """With the pair of keep ratios of `common`."""
    assert common.chosen is not None
    place = common.cascades.index(common.chosen)
    plans = []
    for stratum, rows in sizes.most_common():
        walk = next((one for one in walks[stratum] if one.pair == common.pair), None)
        if walk is not None:
            own = walk.chosen if stratum in large else None
            plans.append(StratumPlan(stratum, rows, own or walk.cascades[place], own is not None))
    return tuple(plans)
