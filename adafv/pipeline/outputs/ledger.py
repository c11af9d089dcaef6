"""Which rows are done: the output is the ledger.

There is no separate record that could disagree with the labels. At the start of a run the ids under `labels/` and
`rejects/` are read back, column by column and batch by batch, as 16-byte digests in one sorted array: 160 MB for ten
million ids, with no Python object per id. A label is done. A reject is done unless its error may have passed, or
`--retry-rejects` asks for all. A `duplicate_id` never counts: it speaks of another row than the one it shares the id
with. A row without an id is known by the place that it stands at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from adafv.pipeline.outputs.folder import Output
from adafv.pipeline.rejects import ERRORS

DIGEST = np.dtype("S16")  # compares as bytes do; trailing zeros are padding to numpy, so equality is exact all the same


def digest_id(id: str) -> bytes:
    return hashlib.blake2b(id.encode(), digest_size=16).digest()


def digest_place(place: str) -> bytes:
    """The digest of a row that has no id."""
    return hashlib.blake2b(place.encode("utf-8", "replace"), digest_size=16, person=b"place").digest()


class Ledger:
    """The set of digests of the rows that are done."""

    def __init__(self, digests: Iterable[bytes] = ()) -> None:
        self._sorted = np.unique(np.fromiter(digests, dtype=DIGEST))

    def __len__(self) -> int:
        return len(self._sorted)

    def contains(self, digests: np.ndarray) -> np.ndarray:
        """bool [N]: which of the digests [N] are done."""
        if not len(self._sorted):
            return np.zeros(len(digests), dtype=bool)
        at = np.searchsorted(self._sorted, digests).clip(max=len(self._sorted) - 1)
        return self._sorted[at] == digests


def read_ledger(output: Output, retry_rejects: bool) -> Ledger:
    """What is done under `output`."""

    def digests() -> Iterator[bytes]:
        for batch in _batches(output, "labels", ["id"]):
            yield from map(digest_id, batch.column("id").to_pylist())
        if not retry_rejects:
            for batch in _batches(output, "rejects", ["id", "image", "error"]):
                for row in batch.to_pylist():
                    if row["error"] != "duplicate_id" and not ERRORS[row["error"]].retryable:
                        yield digest_place(row["image"]) if row["id"] is None else digest_id(row["id"])

    return Ledger(digests())


def _batches(output: Output, folder: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    for path in output.parquet_files(folder):
        with output.filesystem.open_input_file(path) as source:
            yield from pq.ParquetFile(source).iter_batches(columns=columns)
