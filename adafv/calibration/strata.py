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
from collections.abc import Callable, Mapping, Sequence
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
    """Plans by stratum, the largest first; `common`: for rows of no or another stratum.

    Attributes:
        others: the rows of the sample that have no stratum, if any.
    """

    column: str
    plans: tuple[StratumPlan, ...]
    common: Cascade
    others: StratumPlan | None = None

    @property
    def tokens(self) -> float:
        """The language model's tokens per sample, prompt and answer; of all rows, as those of other ways."""
        return self._mean(lambda cascade: cascade.tokens)

    @property
    def escalated_share(self) -> float:
        return self._mean(lambda cascade: cascade.escalated_share)

    def _mean(self, figure: Callable[[Cascade], float]) -> float:
        plans = [*self.plans, *([] if self.others is None else [self.others])]
        return sum(plan.rows * figure(plan.cascade) for plan in plans) / sum(plan.rows for plan in plans)

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
    without = unpruned.rows.keys() - strata.keys()
    many = _large_enough(list(sizes.values()), options.demand, len(common))
    large = [stratum for stratum, _ in sizes.most_common(many)]
    walks = {
        stratum: families(options, unpruned, labelled, truth, only, max(1, len(large)))
        for stratum in sizes
        if (only := {id for id in unpruned.rows if strata.get(id) == stratum})
    }
    rest = families(options, unpruned, labelled, truth, without) if without else ()
    found = [
        Stratified(options.stratify, plans, family.chosen, _others(family, rest, len(without)))
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
    plans = []
    for stratum, rows in sizes.most_common():
        walk = _of_pair(common, walks[stratum])
        if walk is not None:
            own = walk.chosen if stratum in large else None
            plans.append(StratumPlan(stratum, rows, own or _as_common(common, walk), own is not None))
    return tuple(plans)


def _others(common: CascadeFamily, walks: Sequence[CascadeFamily], rows: int) -> StratumPlan | None:
    """Of the rows without a stratum, which get the common threshold."""
    walk = _of_pair(common, walks)
    return None if walk is None else StratumPlan("", rows, _as_common(common, walk), own=False)


def _of_pair(common: CascadeFamily, walks: Sequence[CascadeFamily]) -> CascadeFamily | None:
    return next((one for one in walks if one.pair == common.pair), None)


def _as_common(common: CascadeFamily, walk: CascadeFamily) -> Cascade:
    """The threshold chosen for all rows, with its figures in some."""
    assert common.chosen is not None
    return walk.cascades[common.cascades.index(common.chosen)]
