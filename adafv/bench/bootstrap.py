"""Intervals by resampling clusters of rows.

Questions about one scene depend on each other, so scenes are drawn, not questions: as many as there are, with
repetition. All means use the same draws, so the difference of two means over the same rows is taken draw by draw, and
what both find hard cancels out. Intervals are the draws' percentiles.

If all rows score the same, the interval is a point: 100 % of 300 scenes is not 100 %.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from adafv.scoring.bounds import TAIL, Estimate, numbered

DRAWS = 2000
_CHUNK = 100  # draws made at once; each takes 8 bytes per cluster


class Bootstrap:
    """Draws of the clusters that rows belong to.

    Args:
        clusters: of each row, [R].
        seed: the same seed and clusters give the same intervals.
    """

    def __init__(self, clusters: Sequence[Hashable], seed: int, draws: int = DRAWS) -> None:
        self._cluster, self._count = numbered(clusters)
        rng, evenly = np.random.default_rng(seed), np.full(self._count, 1 / self._count)
        chunks = [rng.multinomial(self._count, evenly, min(_CHUNK, draws - done)) for done in range(0, draws, _CHUNK)]
        # float32 [D, clusters]: how often each draw holds each cluster.
        self._draws = np.concatenate([chunk.astype(np.float32) for chunk in chunks])

    def mean(self, values: np.ndarray, chosen: np.ndarray) -> Estimate:
        """The mean of `values` [R] over the `chosen` rows, bool [R]; at least one must be."""
        sums = np.bincount(self._cluster, np.where(chosen, values, 0.0), self._count)
        counts = np.bincount(self._cluster, chosen, self._count)
        drawn = self._draws @ counts.astype(np.float32)
        with np.errstate(invalid="ignore"):  # a draw may hold no chosen row
            means = self._draws @ sums.astype(np.float32) / drawn
        low, high = np.nanquantile(means, [TAIL, 1 - TAIL])
        return Estimate(float(sums.sum() / counts.sum()), float(low), float(high))

    def difference(self, values: np.ndarray, others: np.ndarray, chosen: np.ndarray) -> Estimate:
        """The difference of the means of `values` and `others`, [R] each, over the same rows."""
        return self.mean(values - others, chosen)
