"""Thresholds by stratum, the value of an input column such as the question type.

Keep ratios are the same for all rows, so that a batch is pruned together; only the threshold of second looks differs.
Each stratum with enough rows walks down the thresholds on its own rows. The error is divided by the pairs of keep
ratios and by the strata, so the promise holds in all of them at once. Other rows get the threshold shown for all rows
together, which promises nothing for them alone.

Whether there are enough rows is decided by their number alone, before looking at the answers.
"""

from __future__ import annotations

import json
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
        stratum: empty for the rows that have none.
        cascade: with its figures in the stratum.
        own: whether the threshold is shown for the stratum, or is the one for all rows.
    """

    stratum: str
    rows: int
    cascade: Cascade
    own: bool


@dataclass(frozen=True)
class Stratified:
    """Plans by stratum, the largest first; `others`: of the sample's rows that have none, if any; `common`: for rows of
    no or another stratum."""

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
    groups: dict[str | None, set[str]] = {}
    for id in unpruned.rows:
        groups.setdefault(strata.get(id), set()).add(id)
    named = sorted((each for each in groups if each is not None), key=lambda each: -len(groups[each]))
    many = _large_enough([len(groups[each]) for each in named], options.demand, len(common))
    large = named[:many]
    walks = {each: families(options, unpruned, labelled, truth, ids, max(1, many)) for each, ids in groups.items()}
    found = []
    for family in common:
        if family.chosen is not None:
            plans = [_plan(family, each, len(groups[each]), walks[each], each in large) for each in named]
            others = _plan(family, "", len(groups[None]), walks[None], False) if None in groups else None
            known = tuple(plan for plan in plans if plan is not None)
            found.append(Stratified(options.stratify, known, family.chosen, others))
    own = [one for one in found if any(plan.own for plan in one.plans)]
    return min(own, key=lambda one: one.tokens, default=None)


def _large_enough(sizes: Sequence[int], demand: Demand, pairs: int) -> int:
    """How many of the strata, the largest first, have the rows to show the demand in all of them."""
    needed = [demand.fewest_rows(ERROR / (pairs * many)) or FEWEST for many in range(1, len(sizes) + 1)]
    return max((many for many, least in enumerate(needed, 1) if sizes[many - 1] >= least), default=0)


def _plan(
    common: CascadeFamily, stratum: str, rows: int, walks: Sequence[CascadeFamily], is_large: bool
) -> StratumPlan | None:
    """With the pair of keep ratios of `common`, and its threshold unless the stratum has one of its own. None if no row
    has both looks."""
    walk = next((one for one in walks if one.pair == common.pair), None)
    if walk is None or common.chosen is None:
        return None
    own = walk.chosen if is_large else None
    return StratumPlan(stratum, rows, own or walk.cascades[common.cascades.index(common.chosen)], own is not None)
