"""A few rows of very many: those with the least of something, kept while all stream by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

SHOWN = 12  # rows of each kind


class Outstanding:
    """The rows with the least keys, the least first; of equal ones, those that came first.

    Args:
        columns: what is kept of each.

    Attributes:
        rows: `SHOWN` of them, or all if there are fewer.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.rows: list[dict[str, Any]] = []
        self._columns = list(columns)
        self._keys = np.empty(0)

    def add(self, batch: pa.RecordBatch, keys: np.ndarray) -> None:
        """`keys`: float64 [N], one for each row of the batch. Rows whose key is NaN or infinite don't count."""
        worst = self._keys[-1] if len(self._keys) == SHOWN else np.inf
        places = np.flatnonzero(np.isfinite(keys) & (keys < worst))
        places = places[np.argsort(keys[places], kind="stable")][:SHOWN]
        if not len(places):
            return
        rows = [*self.rows, *batch.select(self._columns).take(pa.array(places)).to_pylist()]
        merged = np.concatenate([self._keys, keys[places]])
        order = np.argsort(merged, kind="stable")[:SHOWN]
        self.rows, self._keys = [rows[place] for place in order], merged[order]


def spread_keys(digests: bytes) -> np.ndarray:
    """float64 [N]: keys by which the least are a uniform sample, the same each time, of N rows with these digests."""
    return np.frombuffer(digests, ">u8")[::2].astype(np.float64)
