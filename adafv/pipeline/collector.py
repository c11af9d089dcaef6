"""Takes results as they come out of the stream: writes, counts and shows them, and checks the run's limits."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

import pyarrow as pa
import ray.data

from adafv.pipeline.control.gate import Gate
from adafv.pipeline.control.roster import Roster
from adafv.pipeline.limits import Limits, LimitWatch
from adafv.pipeline.outputs.sink import Sink
from adafv.pipeline.planning.worklist import Worklist
from adafv.pipeline.record.metrics import Metrics, address
from adafv.pipeline.record.progress import Progress
from adafv.pipeline.record.run_record import RunRecord
from adafv.pipeline.setup import Setup
from adafv.pipeline.workers.label import LabelWorker

LOG = logging.getLogger("adafv")


class Collector:
    """Takes the results of one run and notes in its record when they came, what they cost and what stopped the run.

    Args:
        began: when the run began, on the monotonic clock; limits count from there.
        gate: closed when a limit is reached; None without limits.
    """

    def __init__(
        self, *, setup: Setup, record: RunRecord, worklist: Worklist, sink: Sink, gate: Gate | None, began: float
    ) -> None:
        self._setup, self._record, self._worklist, self._sink = setup, record, worklist, sink
        self._gate, self._began = gate, began
        self._metrics = Metrics(record.run_id, setup.engine.strategy, worklist.to_do)
        LOG.info("metrics: %s", address() or "none: Ray has metrics turned off")
        self._roster = Roster(
            setup.resources.worker_gpus, LabelWorker.__name__, lambda: sink.tally.actors.copy().values()
        )
        self._progress = Progress(
            tally=sink.tally,
            write_due=sink.write_due,
            metrics=self._metrics,
            to_do=worklist.to_do,
            tariff=setup.tariff,
            roster=self._roster,
        )

    def collect(self, results: ray.data.Dataset) -> None:
        """Take all results.

        Raises:
            RayError: the stream failed.
            S3_ERRORS, OSError: the output can't be written.
            RunError: another job has taken over the output.
        """
        start, self._record.since = time.monotonic(), time.time()
        try:
            with self._progress, self._limited():
                for table in results.iter_batches(batch_size=None, batch_format="pyarrow"):
                    self._take(table, time.monotonic() - start)
        finally:
            try:
                self._sink.close()
            finally:  # what is on record of a run whose last file can't be written
                self._account(time.monotonic() - start)

    def _take(self, table: pa.Table, seconds: float) -> None:
        tally, record = self._sink.tally, self._record
        self._sink.add(table)
        if tally.labelled and record.first_label is None:
            record.first_label, record.first_label_rows = seconds, tally.rows
        self._metrics.observe(table)
        self._progress.check()

    @contextlib.contextmanager
    def _limited(self) -> Iterator[None]:
        """Notes what stopped the run. A limit that is reached after the last row has stopped nothing."""
        if self._gate is None:
            yield
            return
        watch = LimitWatch(
            limits=Limits.of(self._setup.options, self._setup.tariff),
            tally=self._sink.tally,
            gate=self._gate,
            began=self._began,
            roster=self._roster,
        )
        try:
            with watch:
                yield
        except KeyboardInterrupt:
            if not watch.gave_up:
                raise
        finally:
            if self._sink.tally.rows < self._worklist.to_do:
                self._record.stopped_by = watch.stopped_by

    def _account(self, seconds: float) -> None:
        tally, record, now = self._sink.tally, self._record, time.time()
        record.seconds, record.unwritten = seconds, self._sink.unwritten
        record.worker_seconds = tally.worker_seconds(now)
        record.cost_usd = tally.usd(now, self._setup.tariff)
        self._metrics.publish(tally, record.worker_seconds, record.cost_usd)
