"""Lower ends for means of scores anywhere between 0 and 1, by betting against them.

Whoever claims that a mean is no more than m takes bets on the scores x, one after the other: capital is multiplied by
1 + λ (x - m). If he is right, the capital isn't expected to grow, whatever the scores are distributed like, and it
reaches 1 / tail at any time with a probability of `tail` at most (Ville). So the lower end is the largest m that is
still refuted. λ follows from the variance of the scores that came before (the predictable plug-in of Waudby-Smith and
Ramdas, "Estimating means of bounded random variables by betting", arXiv 2010.09686, section 3.2).

Why not `bounds`: for scores of 0 and 1, each on an image of its own, that is Clopper and Pearson's, exact and narrower.
For scores in between it is Gaffke's, for which no counterexample is known and no proof either. Hoeffding and Bentkus'
bound (arXiv 2101.02703) is proven too, but knows nothing of the variance: of captions that are mostly alike it shows
far less than this.

A cluster is one bet, on the mean of its rows, with λ in proportion to their number, as far as no more than 3/4 of the
capital is at stake. A cluster that is larger than that counts for less than its rows do.

With 3/4, rows that all agree show a mean only if there are a third more of them than for the exact bound. If all were
at stake, one row that differs would ruin what hundreds have won.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from adafv.scoring.bootstrap import numbered

MOST = 0.75  # of the capital that may be lost by one bet
STEPS = 30  # bisections


class Betting:
    """Bets on the clusters that rows belong to, in an order that is drawn.

    Args:
        clusters: of each row, [R].
        seed: the same seed and clusters give the same bounds.
    """

    def __init__(self, clusters: Sequence[Hashable], seed: int) -> None:
        self._cluster, self._count = numbered(clusters)
        self._order = np.random.default_rng(seed).permutation(self._count)

    def lower_ends(self, values: np.ndarray, tail: float) -> np.ndarray:
        """float64 [T]: what the means of T sets of values, [T, R], are above, each with a probability of 1 - `tail`."""
        sizes = np.bincount(self._cluster, minlength=self._count)[self._order]
        sums = np.stack([np.bincount(self._cluster, each, self._count) for each in values])[:, self._order]
        scores, rows = sums / sizes, sizes / sizes.mean()  # float64 [T, clusters], [clusters]
        bets = rows * _bets(scores, tail)
        low, high = np.zeros(len(values)), values.mean(axis=1)
        for _ in range(STEPS):
            middle = (low + high) / 2
            refuted = _is_refuted(scores, bets, middle[:, None], tail)
            low, high = np.where(refuted, middle, low), np.where(refuted, high, middle)
        return low


def _bets(scores: np.ndarray, tail: float) -> np.ndarray:
    """float64 [T, clusters]: λ of each bet, from the scores before it."""
    count = np.arange(1, scores.shape[1] + 1)
    mean = (0.5 + scores.cumsum(axis=1)) / (count + 1)
    variance = (0.25 + ((scores - mean) ** 2).cumsum(axis=1)) / (count + 1)
    before = np.concatenate([np.full((len(scores), 1), 0.25), variance[:, :-1]], axis=1)
    return np.sqrt(2 * math.log(1 / tail) / (scores.shape[1] * before))


def _is_refuted(scores: np.ndarray, bets: np.ndarray, mean: np.ndarray, tail: float) -> np.ndarray:
    """bool [T]: whether the capital ever reaches 1 / tail against a mean of so much at most, [T, 1]."""
    with np.errstate(divide="ignore", over="ignore"):
        staked = np.minimum(bets, MOST / mean)
    capital = np.log1p(staked * (scores - mean)).cumsum(axis=1)
    return capital.max(axis=1) >= math.log(1 / tail)
