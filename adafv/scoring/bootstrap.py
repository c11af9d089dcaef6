"""Intervals by resampling clusters of rows: which strategy is better, and by how much one can't tell.

A dozen questions about one scene stand and fall together, so scenes are drawn, not questions: as many as there are,
with repetition, again and again. The same draws serve every mean, so the difference of two means over the same rows is
taken draw by draw, and what both find hard cancels out. Intervals are the draws' percentiles.

Where every row scores the same, all draws agree and the interval is a point: 100 % of 300 scenes is not 100 %.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
CONFIDENCE = 0.95
_BLOCK = 100  # draws made at once; each takes 8 bytes a cluster while it is made


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and the interval that holds 95 % of its draws."""

    value: float
    low: float
    high: float


def numbered(clusters: Sequence[Hashable]) -> tuple[np.ndarray, int]:
    """(int64 [R], a number for each row's cluster, from 0 in the order in which they come; how many clusters)."""
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    return np.array([numbers[cluster] for cluster in clusters], dtype=np.int64), len(numbers)


class Bootstrap:
    """Draws of the clusters that rows belong to.

    Args:
        clusters: of each row, [R].
        seed: the same seed and clusters give the same intervals.
    """

    def __init__(self, clusters: Sequence[Hashable], seed: int, draws: int = DRAWS) -> None:
        self._cluster, self._count = numbered(clusters)
        rng, evenly = np.random.default_rng(seed), np.full(self._count, 1 / self._count)
        blocks = [rng.multinomial(self._count, evenly, min(_BLOCK, draws - done)) for done in range(0, draws, _BLOCK)]
        # float32 [D, clusters]: how often each draw holds each cluster.
        self._draws = np.concatenate([block.astype(np.float32) for block in blocks])

    def mean(self, values: np.ndarray, chosen: np.ndarray) -> Estimate:
        """The mean of `values` [R] over the rows that are `chosen`, bool [R]; at least one must be."""
        sums = np.bincount(self._cluster, np.where(chosen, values, 0.0), self._count)
        counts = np.bincount(self._cluster, chosen, self._count)
        drawn = self._draws @ counts.astype(np.float32)
        with np.errstate(invalid="ignore"):  # a draw may hold no chosen row: it says nothing
            means = self._draws @ sums.astype(np.float32) / drawn
        tail = (1 - CONFIDENCE) / 2
        low, high = np.nanquantile(means, [tail, 1 - tail])
        return Estimate(float(sums.sum() / counts.sum()), float(low), float(high))

    def difference(self, values: np.ndarray, others: np.ndarray, chosen: np.ndarray) -> Estimate:
        """The difference of the means of `values` and `others`, [R] each, over the same rows."""
        return self.mean(values - others, chosen)
