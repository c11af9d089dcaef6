"""The driver's end of the pipeline: the only writer.

Ray may run a task twice, but hands each row to the driver's iterator once; so files written here, and only here, hold
each row once. Rows are gathered into files of up to `ROWS` rows; a file is written early when they take `BYTES`, as
questions of megabytes would, or when its first row has waited for `SECONDS`, which bounds what a crash can cost. File
names carry the run and a random part: no run can overwrite another's file, nor its own after a resume under the same
name. But a file that could not be written is tried again as it is, name and bytes: the store may have it and only
failed to say so, or may still be at it.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import uuid
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adafv.pipeline.outputs import schema
from adafv.pipeline.outputs.folder import Output
from adafv.pipeline.prices import Tariff
from adafv.pipeline.rejects import ERRORS

ROWS = 20_000
SECONDS = 60.0
BYTES = 256 * 2**20

SUMMED = [
    "visual_tokens",
    "kept_tokens",
    "prompt_tokens",
    "output_tokens",
    *(f"{stage}_ms" for stage in schema.STAGES),
    "gpu_seconds",
    "cost_usd",
]


class Device(NamedTuple):
    """What a worker runs on: a processor or GPU, the cloud's name for the machine, and the attention that reads."""

    device: str
    instance: str | None = None
    attention: str | None = None


@dataclass
class Span:
    """A worker's labels, by its own clock, in seconds of the epoch. Batches may come in any order: a worker has two
    tables of several batches in hand, takes turns between them, and hands each over at its end.

    Attributes:
        began: when its first batch did.
        first: its first batches, when each was labelled and how many labels it has.
        last: when its newest one was; `rows`: labels so far.
    """

    FIRST: ClassVar[int] = 2

    began: float = math.inf
    first: list[tuple[float, int]] = field(default_factory=list)
    last: float = 0.0
    rows: int = 0

    def add(self, began: float, labelled: float, rows: int) -> None:
        """One more batch."""
        self.began, self.last, self.rows = min(self.began, began), max(self.last, labelled), self.rows + rows
        self.first = sorted([*self.first, (labelled, rows)])[: self.FIRST]

    @property
    def steady(self) -> tuple[int, float]:
        """Labels, and the seconds that they took, behind the first batches: between the first and the second a worker
        waits for a while, once. Where there were no more than these, behind the first.
        """
        early = self.first if self.last > self.first[-1][0] else self.first[:1]
        return self.rows - sum(rows for _, rows in early), self.last - early[-1][0]


@dataclass
class Tally:
    """What has come in so far."""

    labelled: int = 0
    truncated: int = 0  # labels whose answer was cut off at its longest
    batches: float = 0.0  # that the labels were made in, whole up to rounding
    rejected: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    workers: dict[str, float] = field(default_factory=dict)  # name: when it started, in seconds of the epoch
    devices: dict[str, Device] = field(default_factory=dict)  # name: what it runs on
    actors: dict[str, str] = field(default_factory=dict)  # name: Ray's name of it
    gone: dict[str, float] = field(default_factory=dict)  # name: when it was first missed
    starts: dict[str, tuple[float, ...]] = field(default_factory=dict)  # name: seconds of `schema.STARTING`
    spans: dict[str, Span] = field(default_factory=dict)  # name: from its first batch to its last

    @property
    def rows(self) -> int:
        return self.labelled + self.rejected.total()

    def worker_seconds(self, now: float) -> float:
        """How long workers have been held, idle time included."""
        return sum(self._held(now).values())

    def usd(self, now: float, tariff: Tariff) -> float | None:
        """What that costs; None where it isn't known of a device. A worker that hasn't labelled yet hasn't said what it
        runs on: it counts at the mean of the others' prices."""
        if not tariff.is_given:
            return None
        devices, held = self.devices.copy(), self._held(now)  # copied: another thread may add to them
        rates = {name: tariff.of(on.device, on.instance) for name, on in devices.items() if name in held}
        known = [rate for rate in rates.values() if rate is not None]
        if len(known) < len(rates):
            return None
        mean = sum(known) / len(known) if known else tariff.of(None, None) or 0.0
        return sum(seconds * (rates.get(name, mean) or 0.0) for name, seconds in held.items()) / 3600

    def note_gone(self, alive: Collection[tuple[str, int]], now: float) -> None:
        """Take note of which workers are not among those `alive`, by actor and process number."""
        for name, actor in self.actors.copy().items():
            if name not in self.gone and (actor, int(name.rpartition("/")[2])) not in alive:
                self.gone[name] = now

    def start_seconds(self) -> dict[str, list[float]]:
        """By step of `schema.STARTING`, the seconds that each worker took for it."""
        starts = list(self.starts.values())
        return {step: [one[place] for one in starts] for place, step in enumerate(schema.STARTING)} if starts else {}

    def _held(self, now: float) -> dict[str, float]:
        """How long each worker has been held."""
        workers = self.workers.copy()  # at one moment: another thread may add to them
        return {name: max(0.0, self.gone.get(name, now) - started) for name, started in workers.items()}


class Part:
    """Rows on their way into the next file of one folder."""

    def __init__(self, output: Output, folder: str, run_id: str, columns: pa.Schema) -> None:
        self._output, self._folder, self._run_id, self._columns = output, folder, run_id, columns
        self._tables: list[pa.Table] = []
        self._rows = self._bytes = self._files = 0
        self._oldest = 0.0
        self._unwritten: tuple[str, bytes] | None = None  # a file's name and bytes, until it is known to be there

    def add(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        if not self._tables:
            self._oldest = time.monotonic()
        self._tables.append(table.select(self._columns.names).cast(self._columns))
        self._rows += table.num_rows
        self._bytes += self._tables[-1].nbytes

    def due(self, rows: int, seconds: float) -> bool:
        full = self._rows >= rows or self._bytes >= BYTES
        return full or (self._rows > 0 and time.monotonic() - self._oldest >= seconds)

    def write(self) -> None:
        """Put what has been gathered into a file; kept, to be tried again, if that fails."""
        while self._unwritten or self._tables:
            self._unwritten = self._unwritten or self._file()
            self._output.put(*self._unwritten)
            self._unwritten = None

    def _file(self) -> tuple[str, bytes]:
        """The name and the bytes of a file of the rows gathered so far, which are forgotten here."""
        name = f"{self._folder}/{self._run_id}-{self._files:05d}-{uuid.uuid4().hex[:8]}.parquet"
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.concat_tables(self._tables), buffer, compression="zstd", write_page_checksum=True)
        self._tables, self._rows, self._bytes, self._files = [], 0, 0, self._files + 1
        return name, buffer.getvalue().to_pybytes()


class Sink:
    """Routes results to `labels/` and `rejects/`, and counts them. Its methods may be called from several threads."""

    def __init__(self, output: Output, run_id: str, rows: int = ROWS, seconds: float = SECONDS) -> None:
        self.tally = Tally()
        self._run_id, self._rows, self._seconds = run_id, rows, seconds
        self._labels = Part(output, "labels", run_id, schema.LABELS)
        self._rejects = Part(output, "rejects", run_id, schema.REJECTS)
        self._lock = threading.Lock()

    def add(self, table: pa.Table) -> None:
        """Take a table of `schema.RESULTS`."""
        good = pc.is_null(table.column("error"))
        labels, rejects = table.filter(good), table.filter(pc.invert(good))
        with self._lock:
            self._count(table, labels, rejects)
            self._labels.add(labels)
            self._rejects.add(_as_rejects(rejects))
        self.write_due()

    def write_due(self) -> None:
        """Write the files that are full or have waited long enough."""
        with self._lock:
            for part in (self._rejects, self._labels):
                if part.due(self._rows, self._seconds):
                    part.write()

    def close(self) -> None:
        """Write all that is left: if one part can't be written, the other all the same."""
        with self._lock, contextlib.ExitStack() as parts:
            parts.callback(self._rejects.write)
            parts.callback(self._labels.write)

    def _count(self, table: pa.Table, labels: pa.Table, rejects: pa.Table) -> None:
        tally = self.tally
        tally.labelled += labels.num_rows
        tally.truncated += pc.sum(pc.equal(labels.column("finish_reason"), "length")).as_py() or 0
        tally.batches += pc.sum(pc.divide(1.0, labels.column("batch_size"))).as_py() or 0.0
        tally.rejected.update(rejects.column("error").to_pylist())
        for name in SUMMED:
            tally.totals[name] += pc.sum(labels.column(name)).as_py() or 0
        self._note_workers(table)

    def _note_workers(self, table: pa.Table) -> None:
        """A table has whole batches. Of what is not labelled, `labelled_at` is null."""
        tally = self.tally
        starting = [f"worker_{step}_s" for step in schema.STARTING]
        known = ["worker", "worker_actor", "worker_started", *(f"worker_{name}" for name in Device._fields), *starting]
        batches = table.group_by([*known, "labelled_at"]).aggregate([([], "count_all"), ("gpu_seconds", "sum")])
        for row in batches.to_pylist():  # few, of many rows
            tally.workers.setdefault(row["worker"], row["worker_started"])
            if row["worker_device"] is not None:  # a reject's worker may not have come to that
                tally.devices[row["worker"]] = Device(*(row[f"worker_{name}"] for name in Device._fields))
                tally.starts.setdefault(row["worker"], tuple(row[name] or 0.0 for name in starting))
            if row["worker_actor"] is not None:
                tally.actors[row["worker"]] = row["worker_actor"]
            if row["labelled_at"] is not None:
                labelled, took = row["labelled_at"].timestamp(), row["gpu_seconds_sum"] or 0.0
                tally.spans.setdefault(row["worker"], Span()).add(labelled - took, labelled, row["count_all"])


def _as_rejects(table: pa.Table) -> pa.Table:
    """The rejects among the results, in the columns of `rejects/`."""
    errors = table.column("error").to_pylist()
    columns = {name: table.column(name) for name in ("id", "image", "question", "error", "message", "run_id")}
    columns["stage"] = pa.array([ERRORS[error].stage for error in errors], pa.string())
    columns["retryable"] = pa.array([ERRORS[error].retryable for error in errors], pa.bool_())
    columns["rejected_at"] = pa.array([datetime.now(UTC)] * len(errors), schema.TIME)
    return pa.table(columns)
