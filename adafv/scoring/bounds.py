"""Intervals for means of values between 0 and 1, valid even if nearly all are 1.

If all rows agree, a bootstrap's interval is a point, but 300 agreeing rows don't show that all agree. So the sample
gets one more cluster of mean size: of rows worth 0 for the lower bound, worth 1 for the upper. And a draw weights each
cluster exponentially instead of counting it (Rubin's Bayesian bootstrap). For rows worth 0 or 1, each its own cluster,
this is Clopper and Pearson's exact interval: if k of n are worth 1, their share of the weights is Beta(k, n - k + 1).
For values in between it is Gaffke's bound (2005). Clusters of any size weigh as a whole.

It holds for the data that the rows are drawn from at random, whatever clusters they share; calibrations and audits draw
them so. It needn't for further clusters, if large ones score lower: of 100, of which a tenth have ten rows and a tenth
of these are wrong, the lower end for 97.5 % was too high in 35 %. `betting` holds there, too, and shows less.

All means of one `Bounds` use the same draws, so a mean of values none of which is lower has no lower bounds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
DRAWS = 10_000
TAIL = (1 - CONFIDENCE) / 2  # on each side
_CHUNK = 2_000_000  # weights drawn at once


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and the interval that holds 95 % of its draws."""

    value: float
    low: float
    high: float


def numbered(clusters: Sequence[Hashable]) -> tuple[np.ndarray, int]:
    """(int64 [R], each row's cluster as a number in order of appearance; the number of clusters)."""
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    return np.array([numbers[cluster] for cluster in clusters], dtype=np.int64), len(numbers)


class Bounds:
    """Random weights for the clusters that rows belong to.

    Args:
        clusters: of each row, [R].
        seed: the same seed and clusters give the same intervals.
    """

    def __init__(self, clusters: Sequence[Hashable], seed: int, draws: int = DRAWS) -> None:
        self._cluster, self._count = numbered(clusters)
        self._seed, self._draws = seed, draws

    def mean(self, values: np.ndarray, chosen: np.ndarray) -> Estimate:
        """The mean of `values` [R] over the `chosen` rows, bool [R]; at least one must be."""
        low, rest = self.lower_ends(np.stack([values, 1 - values]), TAIL, chosen)
        value = float(values[chosen].mean())
        return Estimate(value, min(value, float(low)), max(value, float(1 - rest)))

    def lower_ends(self, values: np.ndarray, tail: float, chosen: np.ndarray | None = None) -> np.ndarray:
        """float64 [T]: lower bounds of the means of T sets of values, [T, R], each with probability 1 - `tail`; of the
        `chosen` rows, bool [R], if not all.
        """
        there = np.ones(values.shape[1], dtype=bool) if chosen is None else chosen
        known = np.where(there, values, 0.0)
        sums = np.stack([np.bincount(self._cluster, each, self._count) for each in known], axis=1)  # [clusters, T]
        sizes = np.bincount(self._cluster, there, self._count)
        added, draws = sizes.sum() / np.count_nonzero(sizes), max(self._draws, math.ceil(1 / tail))
        low = np.empty((draws, len(values)))
        rng, step = np.random.default_rng(self._seed), max(1, _CHUNK // (self._count + 1))
        for start in range(0, draws, step):
            weights = rng.standard_exponential((min(step, draws - start), self._count + 1))
            rows = weights[:, :-1] @ sizes + weights[:, -1] * added
            low[start : start + step] = (weights[:, :-1] @ sums) / rows[:, None]
        # The quantile below which another draw lies with probability `tail`, on average.
        return np.minimum(np.quantile(low, tail, axis=0, method="weibull"), values[:, there].mean(axis=1))


def rows_to_show(least: float, tail: float = TAIL) -> int:
    """How many rows, each on its own image, would show a mean of `least` if all were worth 1."""
    return math.ceil(math.log(tail) / math.log(least))


def floored(value: float, digits: int = 4) -> float:
    """Rounded down, so that no lower bound looks better than it is."""
    return math.floor(value * 10**digits + 1e-9) / 10**digits
