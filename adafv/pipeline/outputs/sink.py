"""The driver's end of the pipeline: the only writer.

Ray may run a task twice, but the driver's iterator gets each row once, so files written only here hold each row once.
Files have up to `ROWS` rows; one is written early when its rows take `BYTES`, or when the first has waited for
`SECONDS`, which bounds what a crash can cost. File names carry the run and a random part, so no run overwrites
another's file, nor its own after a resume. A failed write is retried with the same name and bytes: the store may have
the file already.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adafv.pipeline import schema
from adafv.pipeline.record.tally import Tally
from adafv.pipeline.rejects import ERRORS
from adafv.pipeline.store.output import Output

ROWS = 20_000
SECONDS = 60.0
BYTES = 256 * 2**20


class NextFile:
    """Rows for the next file of one folder."""

    def __init__(self, output: Output, folder: str, run_id: str, columns: pa.Schema) -> None:
        self._output, self._folder, self._run_id, self._columns = output, folder, run_id, columns
        self._tables: list[pa.Table] = []
        self._rows = self._bytes = self._files = 0
        self.unwritten = 0  # rows that are in no file yet
        self._oldest = 0.0
        self._unwritten: tuple[str, bytes] | None = None  # name and bytes of a file until it is written

    def add(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        if not self._tables:
            self._oldest = time.monotonic()
        self._tables.append(table.select(self._columns.names).cast(self._columns))
        self._rows += table.num_rows
        self.unwritten += table.num_rows
        self._bytes += self._tables[-1].nbytes

    def due(self, rows: int, seconds: float) -> bool:
        full = self._rows >= rows or self._bytes >= BYTES
        return full or (self._rows > 0 and time.monotonic() - self._oldest >= seconds)

    def write(self) -> None:
        """Write the gathered rows to a file; they are kept for a retry if that fails."""
        while self._unwritten or self._tables:
            self._unwritten = self._unwritten or self._file()
            self._output.put(*self._unwritten)
            self._unwritten, self.unwritten = None, self._rows

    def _file(self) -> tuple[str, bytes]:
        """The name and bytes of a file of the gathered rows, which are then dropped."""
        name = f"{self._folder}/{self._run_id}-{self._files:05d}-{uuid.uuid4().hex[:8]}.parquet"
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.concat_tables(self._tables), buffer, compression="zstd", write_page_checksum=True)
        self._tables, self._rows, self._bytes, self._files = [], 0, 0, self._files + 1
        return name, buffer.getvalue().to_pybytes()


class Sink:
    """Routes results to `labels/` and `rejects/`, and counts them. Thread-safe.

    Args:
        rows, seconds: when to write a file.
        labels: the labels' columns, see `schema.labels_schema`.
    """

    def __init__(
        self,
        output: Output,
        run_id: str,
        rows: int = ROWS,
        seconds: float = SECONDS,
        labels: pa.Schema = schema.LABELS,
    ) -> None:
        self.tally = Tally()
        self._run_id, self._rows, self._seconds = run_id, rows, seconds
        self._labels = NextFile(output, "labels", run_id, labels)
        self._rejects = NextFile(output, "rejects", run_id, schema.REJECTS)
        self._lock = threading.Lock()

    def add(self, table: pa.Table) -> None:
        """Take a table of `schema.RESULTS`."""
        good = pc.is_null(table.column("error"))
        labels, rejects = table.filter(good), table.filter(pc.invert(good))
        with self._lock:
            self.tally.add(table, labels, rejects)
            self._labels.add(labels)
            self._rejects.add(_as_rejects(rejects))
        self.write_due()

    def write_due(self) -> None:
        """Write the files that are full or have waited long enough."""
        with self._lock:
            for part in (self._rejects, self._labels):
                if part.due(self._rows, self._seconds):
                    part.write()

    @property
    def unwritten(self) -> int:
        """How many rows are in no file: none once `close` has written them."""
        return self._labels.unwritten + self._rejects.unwritten

    def close(self) -> None:
        """Write the rest; if one file can't be written, still write the other."""
        with self._lock, contextlib.ExitStack() as parts:
            parts.callback(self._rejects.write)
            parts.callback(self._labels.write)


def _as_rejects(table: pa.Table) -> pa.Table:
    """Rejects among the results, in the columns of `rejects/`."""
    errors = table.column("error").to_pylist()
    columns = {
        name: table.column(name) for name in ("id", "image", "image_uri", "question", "error", "message", "run_id")
    }
    columns["stage"] = pa.array([ERRORS[error].stage for error in errors], pa.string())
    columns["retryable"] = pa.array([ERRORS[error].retryable for error in errors], pa.bool_())
    columns["rejected_at"] = pa.array([datetime.now(UTC)] * len(errors), schema.TIME)
    return pa.table(columns)
