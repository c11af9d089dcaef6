"""Which rows are done: the output itself is the ledger, so no separate record can disagree with it.

At the start of a run the ids under `labels/` and `rejects/` are read as 16-byte digests into one sorted array: 160 MB
for ten million ids, without a Python object per id. A label is done. A reject is done unless its error may pass, or
`--retry-rejects` asks for all. A row without an id is known by its place. A `duplicate_id` says nothing of its id,
which is another row's: these are counted, so that a repetition whose reject was lost is rejected again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adafv.pipeline.outputs.batches import read_batches
from adafv.pipeline.store.output import Output

DIGEST = np.dtype("S16")  # compares like bytes; numpy pads with zeros, so equality is exact
FILES_AHEAD = 16  # files whose ids are read at once; 20,000 ids are less than a megabyte


def digest_id(id: str) -> bytes:
    return hashlib.blake2b(id.encode(), digest_size=16).digest()


def digest_place(place: str) -> bytes:
    """The digest of a row without an id."""
    return hashlib.blake2b(place.encode("utf-8", "replace"), digest_size=16, person=b"place").digest()


def digest_labels(batch: pa.RecordBatch) -> bytes:
    """The joined digests of a batch of labels."""
    return b"".join(map(digest_id, batch.column("id").to_pylist()))


def digest_rejects(batch: pa.RecordBatch) -> bytes:
    """The joined digests of a batch of rejects, some without an id."""
    rows = zip(batch.column("id").to_pylist(), batch.column("image").to_pylist(), strict=True)
    return b"".join(digest_place(image) if id is None else digest_id(id) for id, image in rows)


class Ledger:
    """A set of row digests.

    Attributes:
        repeats: the rejected repetitions of ids, each as often as it was rejected.
    """

    def __init__(self, digests: Iterable[bytes] = (), repeats: Ledger | None = None) -> None:
        """`digests`: each item holds one digest or several joined."""
        self.repeats = repeats
        gathered = bytearray()
        for some in digests:
            gathered += some
        self._sorted = np.frombuffer(gathered, dtype=DIGEST)
        self._sorted.sort()

    def __len__(self) -> int:
        """How many were given; a row that several runs rejected counts several times."""
        return len(self._sorted)

    def distinct_and_repeated(self) -> tuple[int, int]:
        """How many distinct digests there are, and how many of them were given more than once."""
        same = self._sorted[1:] == self._sorted[:-1]
        begins = same & ~np.concatenate([[False], same[:-1]])  # where a digest is met the second time
        return len(self) - int(np.count_nonzero(same)), int(np.count_nonzero(begins))

    def contains(self, digests: np.ndarray) -> np.ndarray:
        """bool [N]: which of the digests [N] are in the ledger. Fast if these are sorted or few."""
        if not len(self._sorted):
            return np.zeros(len(digests), dtype=bool)
        at = np.searchsorted(self._sorted, digests).clip(max=len(self._sorted) - 1)
        return self._sorted[at] == digests

    def times(self, digests: np.ndarray) -> np.ndarray:
        """int [N]: how often each of the digests [N] was given."""
        return self._sorted.searchsorted(digests, "right") - self._sorted.searchsorted(digests)


def read_ledger(output: Output, retry_rejects: bool) -> Ledger:
    """The rows that are done under `output`. Raises OSError, which names a file that can't be read."""
    rejected, repeats = [], []
    columns = ["id", "image", "error", "retryable"]
    for batch in read_batches(output, output.parquet_files("rejects"), columns, FILES_AHEAD):
        repeated = pc.equal(batch.column("error"), "duplicate_id")
        repeats.append(digest_rejects(batch.filter(repeated)))
        if not retry_rejects:
            rejected.append(digest_rejects(batch.filter(pc.invert(pc.or_(repeated, batch.column("retryable"))))))
    labels = read_batches(output, output.parquet_files("labels"), ["id"], FILES_AHEAD)
    return Ledger(chain(map(digest_labels, labels), rejected), Ledger(repeats))
