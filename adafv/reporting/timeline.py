"""When labels were made: counts over time, in steps that grow with the time, so that memory stays bounded."""

from __future__ import annotations

import numpy as np

MOST = 4096  # steps held
GAP = 600  # seconds without a label that end a span
SPANS = 12  # at most; with more, gaps are not cut
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)


class Timeline:
    """Labels over time.

    Attributes:
        width: seconds per step.
    """

    def __init__(self) -> None:
        self.width = 1
        self._steps, self._counts = np.empty(0, np.int64), np.empty(0, np.int64)

    def add(self, seconds: np.ndarray) -> None:
        """int64 [N]: when labels were made, in seconds since 1970."""
        self._merge(
            np.concatenate([self._steps, seconds // self.width]),
            np.concatenate([self._counts, np.ones(len(seconds), np.int64)]),
        )
        while len(self._steps) > MOST:
            self.width *= 2
            self._merge(self._steps // 2, self._counts)

    def _merge(self, steps: np.ndarray, counts: np.ndarray) -> None:
        self._steps, group = np.unique(steps, return_inverse=True)
        self._counts = np.bincount(group, weights=counts, minlength=len(self._steps)).astype(np.int64)

    def spans(self, columns: int) -> tuple[int, list[tuple[int, list[int]]]]:
        """The spans of time with labels, in about `columns` columns in all.

        Returns:
            Seconds per column; and for each span its start, in seconds since 1970, and its columns' labels.
        """
        if not len(self._steps):
            return 1, []
        times = self._steps * self.width
        cuts = np.flatnonzero(np.diff(times) > max(GAP, 2 * self.width)) + 1
        cuts = cuts if len(cuts) < SPANS else cuts[:0]
        parts = list(zip(np.split(times, cuts), np.split(self._counts, cuts), strict=True))
        total = sum(int(part[-1] - part[0]) + self.width for part, _ in parts)
        step = next((step for step in STEPS if step >= self.width and step * columns >= total), 0)
        step = step or -(-total // columns)
        spans = []
        for part, counts in parts:
            start = int(part[0]) // step * step
            spans.append((start, np.bincount((part - start) // step, weights=counts).astype(int).tolist()))
        return step, spans
