"""Thresholds by stratum, the value of an input column such as the question type.

Keep ratios are the same for all rows, so that a batch is pruned together; only the threshold of second looks differs.
Each stratum with enough rows walks down the thresholds on its own rows. The error is divided by the pairs of keep
ratios and by the strata, so the promise holds in all of them at once. Other rows get the threshold shown for all rows
together, which promises nothing for them alone.

Whether there are enough rows is decided by their number alone, before looking at the answers.
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

FEWEST = 30  # rows of a stratum, if the demand doesn't say


@dataclass(frozen=True)
class StratumPlan:
    """What to do with one stratum's rows.

    Attributes:
        cascade: with its figures in the stratum.
        own: whether the threshold is shown for the stratum, or is the one for all rows.
    """

    stratum: str
    rows: int
    cascade: Cascade
    own: bool


@dataclass(frozen=True)
class Stratified:
    """Plans by stratum, the largest first; `common`: for rows of no or another stratum."""

    column: str
    plans: tuple[StratumPlan, ...]
    common: Cascade

    @property
    def tokens(self) -> float:
        """The language model's tokens per sample, prompt and answer."""
        return self._mean([plan.cascade.tokens for plan in self.plans])

    @property
    def escalated_share(self) -> float:
        return self._mean([plan.cascade.escalated_share for plan in self.plans])

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
    """The plans of the pair of keep ratios with the fewest tokens; None if no stratum has its own threshold.

    Args:
        strata: each row's stratum, by id.
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
    """How many of the largest strata have the rows to show the demand in all of them."""
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
