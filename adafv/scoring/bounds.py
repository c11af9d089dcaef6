"""Intervals for the mean of what lies between 0 and 1, also where nearly all of it is 1.

Where all rows agree, every draw of a bootstrap does, and its interval is a point. But 300 rows that agree don't show
that all do. So the sample gets one more cluster, as large as the mean one: of rows worth 0 for the lower end, of rows
worth 1 for the upper. And a draw gives each cluster a random weight, exponentially distributed, rather than a number of
times (Rubin's Bayesian bootstrap). For rows worth 0 or 1, each a cluster of its own, this is Clopper and Pearson's
exact interval: where k of n are worth 1, these have a share of Beta(k, n - k + 1) in the weights of all and the one
added. For rows worth something in between it is Gaffke's bound (2005). Clusters, which may differ in size, weigh as a
whole.

All means of one `Bounds` come from the same draws. So a mean of values none of which is lower has no lower ends.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from adafv.scoring.bootstrap import CONFIDENCE, Estimate, numbered

DRAWS = 10_000
TAIL = (1 - CONFIDENCE) / 2  # beyond each end
_BLOCK = 2_000_000  # weights drawn at once


class Bounds:
    """Draws of weights for the clusters that rows belong to.

    Args:
        clusters: of each row, [R].
        seed: the same seed and clusters give the same intervals.
    """

    def __init__(self, clusters: Sequence[Hashable], seed: int, draws: int = DRAWS) -> None:
        self._cluster, self._count = numbered(clusters)
        self._seed, self._draws = seed, draws

    def mean(self, values: np.ndarray, chosen: np.ndarray) -> Estimate:
        """The mean of `values` [R] over the rows that are `chosen`, bool [R]; at least one must be."""
        sums = np.bincount(self._cluster, np.where(chosen, values, 0.0), self._count)
        sizes = np.bincount(self._cluster, chosen, self._count)
        added = sizes.sum() / np.count_nonzero(sizes)
        low, high = np.empty(self._draws), np.empty(self._draws)
        rng, step = np.random.default_rng(self._seed), max(1, _BLOCK // (self._count + 1))
        for start in range(0, self._draws, step):
            weights = rng.standard_exponential((min(step, self._draws - start), self._count + 1))
            one_more = weights[:, -1] * added
            worth, rows = weights[:, :-1] @ sums, weights[:, :-1] @ sizes + one_more
            low[start : start + step], high[start : start + step] = worth / rows, (worth + one_more) / rows
        value = float(sums.sum() / sizes.sum())
        return Estimate(
            value, min(value, float(np.quantile(low, TAIL))), max(value, float(np.quantile(high, 1 - TAIL)))
        )

    def lower_ends(self, values: np.ndarray, tail: float) -> np.ndarray:
        """float64 [T]: what the means of T sets of values, [T, R], are above, each with a probability of 1 - `tail`."""
        sums = np.stack([np.bincount(self._cluster, each, self._count) for each in values], axis=1)  # [clusters, T]
        sizes = np.bincount(self._cluster, minlength=self._count)
        added, low = sizes.mean(), np.empty((self._draws, len(values)))
        rng, step = np.random.default_rng(self._seed), max(1, _BLOCK // (self._count + 1))
        for start in range(0, self._draws, step):
            weights = rng.standard_exponential((min(step, self._draws - start), self._count + 1))
            rows = weights[:, :-1] @ sizes + weights[:, -1] * added
            low[start : start + step] = (weights[:, :-1] @ sums) / rows[:, None]
        return np.minimum(np.quantile(low, tail, axis=0), values.mean(axis=1))


def rows_to_show(least: float, tail: float = TAIL) -> int:
    """How many rows, each on a picture of its own, would show a mean of `least` if all of them were worth 1."""
    return math.ceil(math.log(tail) / math.log(least))
