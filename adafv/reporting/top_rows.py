"""A few of very many rows: those with the smallest keys, kept while all stream by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

SHOWN = 12  # rows of each kind


class TopRows:
    """The rows with the smallest keys, in order; of equal ones, the first.

    Args:
        columns: to keep.

    Attributes:
        rows: up to `SHOWN` rows.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.rows: list[dict[str, Any]] = []
        self._columns = list(columns)
        self._keys = np.empty(0)

    def add(self, batch: pa.RecordBatch, keys: np.ndarray) -> None:
        """`keys`: float64 [N], one per row of the batch. Rows with a NaN or infinite key don't count."""
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
    """float64 [N]: keys by which the smallest are a uniform sample of N rows with these digests, the same each time."""
    return np.frombuffer(digests, ">u8")[::2].astype(np.float64)
