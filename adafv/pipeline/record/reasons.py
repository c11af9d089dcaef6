"""Groups a run's rejects by error and message, ignoring what differs from row to row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from adafv.pipeline.rejects import ERRORS

MOST = 200  # distinct messages to count
OTHERS = "…"
# Quoted texts, paths, URIs and numbers, which differ from row to row.
_OWN = re.compile(r"'[^']*'|\"[^\"]*\"|\S*/\S*|\d+")


class Reasons:
    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], str] = {}

    def add(self, rejects: pa.Table) -> None:
        """`rejects` has columns of `schema.REJECTS`."""
        for row in rejects.select(["id", "image", "error", "message"]).to_pylist():
            reason = row["error"], _OWN.sub("…", row["message"])
            if reason not in self._counts and len(self._counts) >= MOST:
                reason = row["error"], OTHERS
            self._counts[reason] += 1
            self._examples.setdefault(reason, f"{row['id'] or row['image']}: {row['message']}")

    def lines(self) -> Iterator[str]:
        """The three most common reasons, each with an example and advice."""
        for (error, _), count in self._counts.most_common(3):
            yield f"{count:,} {error}, such as {self._examples[error, _]}"
            if ERRORS[error].advice:
                yield f"  {ERRORS[error].advice}"
