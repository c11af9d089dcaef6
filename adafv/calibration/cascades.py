"""The cheapest cascade of two keep ratios and a threshold that is shown to meet the demand.

A cascade labels at one keep ratio and asks again, at another, the answers whose confidence is below a threshold
(`--escalate`, `--escalate-below`). Its answers follow from the outputs of its two budgets, so nothing more is labelled.

The bound holds after choosing. A family is a pair of keep ratios; its thresholds form a fixed sequence (`THRESHOLDS`,
or `LEADS`), from asking everything again downwards. Each is tested one-sided against the demand, and the walk ends at
the first failure. A false cascade is chosen only if the first false one passes its test, so one test's error holds for
the whole walk (fixed-sequence testing; Learn then Test, arXiv 2110.01052). With F families the error is divided by F.
Every row serves both to choose and to test.

If the second look is unpruned, all that is asked again agrees; the fewer are asked again, the fewer agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from adafv.calibration.demand import Demand
from adafv.scoring.betting import Betting
from adafv.scoring.bounds import Bounds

ERROR = 0.05  # the probability of choosing a cascade that doesn't meet the demand
# Log-probabilities: log-odds from 12 to -6, of the geometric mean of an answer's tokens' probabilities.
THRESHOLDS = tuple(float(f"{value:.4g}") for value in -np.logaddexp(0, -np.linspace(12, -6, 181)))
# For choices the confidence is the best one's lead, from 0 to 1.
LEADS = tuple(float(f"{value:.4g}") for value in np.linspace(1, 0, 201))


@dataclass(frozen=True, eq=False)
class BudgetAnswers:
    """One budget's answers to R rows.

    Attributes:
        scores: float64 [R], what the demand is on (`Demand.scores`).
        agrees: float64 [R], with the unpruned answers, from 0 to 1.
        right: float64 [R], how right they are, NaN if unknown; None if none is known.
        confidence: float64 [R], infinite where all visual tokens were kept.
        tokens: [R], the language model's positions: prompt and answer; `prompt_tokens`: the prompt's.
        seconds: of a worker, per sample; `again`: of these, what a second look takes, without encoding the image.
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
    """Label at `keep`; ask again at `escalate` if the confidence is below `threshold`.

    Attributes:
        agreement: with the unpruned answers; `accuracy`, if right ones are known.
        low: the lower bound of the demanded figure (`Demand`).
        escalated_share: of the rows that are asked again.
        seconds: of a worker, per sample, second looks included; likewise `tokens` and `prompt_tokens`.
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


@dataclass(frozen=True)
class CascadeFamily:
    """All cascades of a strategy's two keep ratios, in the thresholds' order; `chosen`: the cheapest shown to meet
    the demand, if any."""

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
    counted: np.ndarray | None = None,
) -> CascadeFamily:
    """Walk down the thresholds while the demand is shown to be met.

    Args:
        bounds: of the clusters of the rows that are `counted`, for the demand's scores (`Demand.bounds`).
        families: how many there are to choose from, by which the error is divided.
        counted: bool [R], the rows that have scores, if not all. None of them shows nothing.
    """
    again = first.confidence < np.array(thresholds)[:, None]  # [T, R]
    scores = np.where(again, second.scores, first.scores)
    scores = scores if counted is None else scores[:, counted]
    low = bounds.lower_ends(scores, ERROR / families) if scores.size else np.zeros(len(thresholds))
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
    """The cascade with the fewest language model tokens. Unlike seconds, they don't depend on what else the machine
    did."""
    chosen = [each.chosen for each in families if each.chosen is not None]
    return min(chosen, key=lambda cascade: cascade.tokens, default=None)
