"""Which cascade of two looks is the cheapest that is shown to meet the demand: keep ratios and threshold.

A cascade labels at a keep ratio and asks those answers again whose confidence is below a threshold (`--escalate`,
`--escalate-below`). What it would have answered is known from the outputs of its two budgets, so nothing is labelled
for it.

The bound holds after choosing. A family is a first and a second keep ratio; its thresholds form a sequence that is
fixed beforehand (`THRESHOLDS`, or `LEADS`), from asking everything again downwards. Each threshold's scores are held
against the demand by a one-sided test, and the walk ends at the first that isn't shown to meet it. A false cascade can
only be chosen if the first false one of the sequence passes its test. So one test's error holds for the whole walk,
however many thresholds there are (fixed-sequence testing; Learn then Test, arXiv 2110.01052). Among F families the
error is divided by F. Every row serves to choose and to test; a split sample would choose on one half and test on the
other.

Where the second look is unpruned, all that is asked again agrees, and the fewer are asked again, the fewer agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from adafv.calibration.demand import Demand
from adafv.scoring.betting import Betting
from adafv.scoring.bounds import Bounds

ERROR = 0.05  # the probability that a cascade is chosen that doesn't meet the demand
# Log-probabilities: log-odds from 12 to -6, of the geometric mean of an answer's tokens' probabilities.
THRESHOLDS = tuple(float(f"{value:.4g}") for value in -np.logaddexp(0, -np.linspace(12, -6, 181)))
# Of choices' answers the confidence is the best one's lead, from 0 to 1.
LEADS = tuple(float(f"{value:.4g}") for value in np.linspace(1, 0, 201))


@dataclass(frozen=True, eq=False)
class BudgetAnswers:
    """One budget's answers to R rows.

    Attributes:
        scores: float64 [R], what the demand is on (`Demand.scores`).
        agrees: float64 [R], with the unpruned answers, from 0 to 1.
        right: how right they are, NaN where that isn't known; None where it is of none.
        confidence: float64 [R].
        tokens: [R], positions that the language model takes: prompt and answer; `prompt_tokens`, of the prompt.
        seconds: of a worker, a sample; `again`: of these, what a second look takes, for which the image is encoded.
    """

    keep: float
    scores: np.ndarray
    agrees: np.ndarray
    right: np.ndarray | None
    confidence: np.ndarray
    tokens: np.ndarray
    prompt_tokens: np.ndarray
    seconds: float
    again: float


@dataclass(frozen=True)
class Cascade:
    """Label at `keep`, ask again at `escalate` what is less sure than `threshold`.

    Attributes:
        agreement: with the unpruned answers; `accuracy`, where right ones are known.
        low: the lower bound of what is demanded (`Demand`).
        escalated_share: of the rows that are asked again.
        seconds: of a worker, a sample, second looks included; likewise `tokens` and `prompt_tokens`.
    """

    strategy: str
    keep: float
    escalate: float
    threshold: float
    agreement: float
    accuracy: float | None
    low: float
    escalated_share: float
    seconds: float
    tokens: float
    prompt_tokens: float

    def cost_per_1000(self, price_per_hour: float | None) -> float | None:
        return None if price_per_hour is None else 1000 * self.seconds * price_per_hour / 3600


@dataclass(frozen=True)
class CascadeFamily:
    """All cascades of a strategy's two keep ratios, in the thresholds' order; `chosen`: the cheapest that is shown to
    meet the demand, if any is.
    """

    strategy: str
    keep: float
    escalate: float
    cascades: tuple[Cascade, ...]
    chosen: Cascade | None

    @property
    def pair(self) -> tuple[str, float, float]:
        return self.strategy, self.keep, self.escalate


def family(
    strategy: str,
    first: BudgetAnswers,
    second: BudgetAnswers,
    bounds: Bounds | Betting,
    demand: Demand,
    families: int,
    thresholds: tuple[float, ...] = THRESHOLDS,
) -> CascadeFamily:
    """Walk down the thresholds, while it is shown that the demand is met.

    Args:
        bounds: of the rows' clusters, for the demand's scores (`Demand.bounds`).
        families: how many there are to choose among, by which the error is divided.
    """
    again = first.confidence < np.array(thresholds)[:, None]  # [T, R]
    low = bounds.lower_ends(np.where(again, second.scores, first.scores), ERROR / families)
    agreement, share = np.where(again, second.agrees, first.agrees).mean(axis=1), again.mean(axis=1)
    accuracy: list[float] | None = None
    if first.right is not None and second.right is not None:
        accuracy = np.nanmean(np.where(again, second.right, first.right), axis=1).tolist()
    cascades = tuple(
        Cascade(
            strategy=strategy,
            keep=first.keep,
            escalate=second.keep,
            threshold=threshold,
            agreement=float(agreement[number]),
            accuracy=None if accuracy is None else accuracy[number],
            low=demand.figure(float(low[number])),
            escalated_share=float(share[number]),
            seconds=first.seconds + float(share[number]) * second.again,
            tokens=float((first.tokens + again[number] * second.tokens).mean()),
            prompt_tokens=float((first.prompt_tokens + again[number] * second.prompt_tokens).mean()),
        )
        for number, threshold in enumerate(thresholds)
    )
    shown = low >= demand.least_score
    passed = len(shown) if shown.all() else int(shown.argmin())
    return CascadeFamily(strategy, first.keep, second.keep, cascades, cascades[passed - 1] if passed else None)


def cheapest(families: Iterable[CascadeFamily]) -> Cascade | None:
    """The cascade that takes the language model through the fewest positions: that is what its cost goes by, and unlike
    seconds it doesn't depend on what else the machine did."""
    chosen = [each.chosen for each in families if each.chosen is not None]
    return min(chosen, key=lambda cascade: cascade.tokens, default=None)
