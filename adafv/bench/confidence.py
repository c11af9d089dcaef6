"""Which signal says best that pruning changed an answer: area under the risk-coverage curve, for each budget.

Risk is the share of answers that aren't the unpruned model's (`normalised` agreement); coverage the share of answers
that stand, the surest first. The area is the mean risk over all coverages: what a signal that knows nothing has is the
risk of all, what one that knows everything has is `ideal`. Intervals are drawn over scenes, and the difference to
`mean_logprob` draw by draw.

`agreement` asks twice: whether the other budget, the next one, gives the same answer; its ties are broken by
`mean_logprob`. `combined` is a logistic regression of all signals of the one answer, fitted on one half of the scenes
and used on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adafv.bench.examples import ExampleSource
from adafv.bench.signals import SIGNALS, ContenderAnswers, Survey, ask
from adafv.pipeline.options import JobOptions
from adafv.scoring.agreement import AGREEMENTS
from adafv.scoring.bootstrap import CONFIDENCE, Estimate, numbered

DRAWS = 1000
LEAD = "mean_logprob"


@dataclass(frozen=True)
class SignalScore:
    """One signal at one budget.

    Attributes:
        area, low, high: under the risk-coverage curve, and its interval.
        difference, difference_low, difference_high: to that of `mean_logprob`; negative is better.
        again: the least share of answers that must be asked again, unpruned, for 98 % to agree.
    """

    keep: float
    signal: str
    n: int
    risk: float
    ideal: float
    area: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    again: float


def run(job: JobOptions, source: ExampleSource, keeps: Sequence[float], seed: int) -> tuple[list[SignalScore], str]:
    """The figures, and a table of them."""
    found = compare(ask(job, job.engine, source, keeps), seed)
    return found, "\n".join([f"{source.title}, {job.model}, {job.engine.strategy}", "", table(found)])


def compare(survey: Survey, seed: int) -> list[SignalScore]:
    """All signals at all budgets."""
    unpruned, *looks = survey.looks
    cluster, count = numbered(survey.clusters)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), DRAWS)[:, cluster]
    found = []
    for number, look in enumerate(looks):
        wrong = disagrees(look, unpruned)
        other = looks[number - 1 if number else min(1, len(looks) - 1)]
        named = _signals(look, other, wrong, cluster)
        areas = {name: area(signal, wrong, weights) for name, signal in named.items()}
        for name, signal in named.items():
            value, draws = areas[name]
            mean, difference = _estimate(value, draws), _estimate(value - areas[LEAD][0], draws - areas[LEAD][1])
            found.append(
                SignalScore(
                    keep=look.keep,
                    signal=name,
                    n=len(wrong),
                    risk=float(wrong.mean()),
                    ideal=area(-wrong, wrong, weights[:1])[0],
                    area=mean.value,
                    low=mean.low,
                    high=mean.high,
                    difference=difference.value,
                    difference_low=difference.low,
                    difference_high=difference.high,
                    again=asked_again(signal, wrong, 0.98),
                )
            )
    return found


def disagrees(look: ContenderAnswers, unpruned: ContenderAnswers) -> np.ndarray:
    """float64 [R]: 1 where the answer isn't the unpruned one."""
    return np.array([1 - AGREEMENTS["normalised"](*pair) for pair in zip(look.answers, unpruned.answers, strict=True)])


def area(signal: np.ndarray, wrong: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Under the risk-coverage curve of the sample, and of draws.

    Args:
        signal, wrong: [R]; of equal signals the order is drawn, the same each time.
        weights: int [D, R], how often each draw holds each row.
    """
    order = _order(signal)
    every = np.vstack([np.ones((1, len(wrong))), weights])[:, order]
    covered = every.cumsum(axis=1)
    risk = (every * wrong[order]).cumsum(axis=1) / np.maximum(covered, 1)
    areas = (risk * every).sum(axis=1) / covered[:, -1]
    return float(areas[0]), areas[1:]


def asked_again(signal: np.ndarray, wrong: np.ndarray, agreement: float) -> float:
    """The least share of the rows, the least sure, without which so many of all agree."""
    left = wrong[_order(signal)].cumsum() / len(wrong)
    return 1 - float(np.searchsorted(left, 1 - agreement + 1e-12, side="right")) / len(wrong)


def _order(signal: np.ndarray) -> np.ndarray:
    """int64 [R]: the surest first."""
    ties = np.random.default_rng(0).permutation(len(signal))
    return np.lexsort((ties, -signal))


def _signals(
    look: ContenderAnswers, other: ContenderAnswers, wrong: np.ndarray, cluster: np.ndarray
) -> dict[str, np.ndarray]:
    known = {name: look.signals[name] for name in SIGNALS}
    ranks = known[LEAD].argsort().argsort() / len(wrong)  # from 0 to 1
    return known | {
        "agreement": 1 - disagrees(look, other) + ranks,
        "combined": combined(np.stack([*known.values()], axis=1), 1 - wrong, cluster % 2 == 0),
    }


def combined(signals: np.ndarray, right: np.ndarray, half: np.ndarray) -> np.ndarray:
    """float64 [R]: log-odds of being right, each half's by a logistic regression on the other.

    Args:
        signals: [R, S]; `right`: [R], 0 or 1; `half`: bool [R].
    """
    found = np.empty(len(right))
    for chosen in (half, ~half):
        mean, spread = signals[chosen].mean(axis=0), signals[chosen].std(axis=0) + 1e-9
        design = np.column_stack([np.ones(len(right)), (signals - mean) / spread])
        found[~chosen] = design[~chosen] @ _fitted(design[chosen], right[chosen])
    return found


def _fitted(design: np.ndarray, right: np.ndarray, ridge: float = 1.0, steps: int = 30) -> np.ndarray:
    """Coefficients of a logistic regression with a ridge, by Newton's method."""
    beta = np.zeros(design.shape[1])
    penalty = ridge * np.eye(len(beta))
    penalty[0, 0] = 1e-9
    for _ in range(steps):
        probable = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        hessian = design.T @ (design * (probable * (1 - probable))[:, None]) + penalty
        beta += np.linalg.solve(hessian, design.T @ (right - probable) - penalty @ beta)
    return beta


def _estimate(value: float, draws: np.ndarray) -> Estimate:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def table(found: Sequence[SignalScore]) -> str:
    """A part for each budget, with a line for each signal; areas in %."""
    parts = []
    for keep in dict.fromkeys(entry.keep for entry in found):
        some = [entry for entry in found if entry.keep == keep]
        lines = [
            f"{100 * keep:.3g} % kept, {some[0].n} answers: {100 * some[0].risk:.1f} % aren't the unpruned ones; ideal "
            f"area {100 * some[0].ideal:.2f}",
            f"{'':<14}{'area, %':>22}{f'to {LEAD}':>24}{'again for 98 %':>16}",
        ]
        for entry in some:
            interval = f"{100 * entry.area:.2f} [{100 * entry.low:.2f}, {100 * entry.high:.2f}]"
            change = (
                f"{100 * entry.difference:+.2f} [{100 * entry.difference_low:+.2f}, {100 * entry.difference_high:+.2f}]"
            )
            lines.append(f"{entry.signal:<14}{interval:>22}{change:>24}{100 * entry.again:>15.1f}%")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
