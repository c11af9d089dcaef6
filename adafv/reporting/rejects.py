"""A few current rejects, some of every error."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain, zip_longest
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from adafv.pipeline.outputs.ledger import digest_rejects
from adafv.pipeline.schema import REJECTS
from adafv.reporting.top_rows import SHOWN, TopRows, spread_keys


class RejectExamples:
    """A uniform sample of each error's rejects by a hash of the ids, the same each time."""

    def __init__(self) -> None:
        self._by_error: dict[str, TopRows] = defaultdict(lambda: TopRows(REJECTS.names))

    def add(self, batch: pa.RecordBatch) -> None:
        """`batch` has the columns of `schema.REJECTS`."""
        for error in pc.unique(batch.column("error")).to_pylist():
            some = batch.filter(pc.equal(batch.column("error"), error))
            self._by_error[error].add(some, spread_keys(digest_rejects(some)))

    def rows(self) -> list[dict[str, Any]]:
        """One of each error, then a second of each, up to `SHOWN`."""
        kinds = [self._by_error[error].rows for error in sorted(self._by_error)]
        turns = chain.from_iterable(zip_longest(*kinds))
        return sorted([row for row in turns if row is not None][:SHOWN], key=lambda row: row["error"])
