"""Lower bounds for means of scores between 0 and 1, by betting against them.

Suppose the mean is at most m, and we bet on one score x after another: capital is multiplied by 1 + λ (x - m). It isn't
expected to grow, whatever the distribution, and reaches 1 / tail with probability at most `tail` (Ville). So the lower
bound is the largest m that is still refuted. λ follows from the variance of earlier scores (the predictable plug-in of
Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", arXiv 2010.09686, section 3.2).

Why not `bounds`: for scores of 0 and 1 on separate images it is Clopper and Pearson's exact bound, and narrower. In
between it is Gaffke's, without a known counterexample or proof. Hoeffding and Bentkus' bound (arXiv 2101.02703) is
proven, but ignores the variance: for mostly equal captions it shows far less.

A cluster is one bet, on the mean of its rows, with λ in proportion to its rows: the largest stakes up to 3/4 of the
capital, the others less. If large ones staked less than their share, the bound would hold for the mean of the clusters,
which is too high for rows whose large clusters score lower.

At 3/4, rows that all agree must be a third more than for the exact bound. If all capital were at stake, one differing
row would ruin it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from adafv.scoring.bounds import numbered

MOST = 0.75  # of the capital at stake in one bet
STEPS = 30  # bisections


class Betting:
    """Bets on clusters of rows, in random order.

    Args:
        clusters: of each row, [R].
        seed: the same seed and clusters give the same bounds.
    """

    def __init__(self, clusters: Sequence[Hashable], seed: int) -> None:
        self._cluster, self._count = numbered(clusters)
        self._order = np.random.default_rng(seed).permutation(self._count)

    def lower_ends(self, values: np.ndarray, tail: float) -> np.ndarray:
        """float64 [T]: lower bounds of the means of T sets of values, [T, R], each with probability 1 - `tail`."""
        sizes = np.bincount(self._cluster, minlength=self._count)[self._order]
        sums = np.stack([np.bincount(self._cluster, each, self._count) for each in values])[:, self._order]
        scores, rows = sums / sizes, sizes / sizes.mean()  # float64 [T, clusters], [clusters]
        bets = _bets(scores, tail)
        low, high = np.zeros(len(values)), values.mean(axis=1)
        for _ in range(STEPS):
            middle = (low + high) / 2
            refuted = _is_refuted(scores, rows, bets, middle[:, None], tail)
            low, high = np.where(refuted, middle, low), np.where(refuted, high, middle)
        return low


def _bets(scores: np.ndarray, tail: float) -> np.ndarray:
    """float64 [T, clusters]: λ of each bet on a cluster of mean size, from the scores before it."""
    count = np.arange(1, scores.shape[1] + 1)
    mean = (0.5 + scores.cumsum(axis=1)) / (count + 1)
    variance = (0.25 + ((scores - mean) ** 2).cumsum(axis=1)) / (count + 1)
    before = np.concatenate([np.full((len(scores), 1), 0.25), variance[:, :-1]], axis=1)
    return np.sqrt(2 * math.log(1 / tail) / (scores.shape[1] * before))


def _is_refuted(scores: np.ndarray, rows: np.ndarray, bets: np.ndarray, mean: np.ndarray, tail: float) -> np.ndarray:
    """bool [T]: whether the capital ever reaches 1 / tail against a mean of at most `mean`, [T, 1]."""
    with np.errstate(divide="ignore", over="ignore"):
        staked = rows * np.minimum(bets, MOST / (mean * rows.max()))
    capital = np.log1p(staked * (scores - mean)).cumsum(axis=1)
    return capital.max(axis=1) >= math.log(1 / tail)
