"""One run of the job: plan it, stream the rows through Ray Data, write what comes out.

What the sink has written is done, and a rerun of the same command plans only the rest.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.exceptions

from adafv.pipeline.control.gate import Gate
from adafv.pipeline.control.resources import Resources, allot
from adafv.pipeline.control.roster import Roster
from adafv.pipeline.control.session import RaySession, cause_of, is_ours_alone
from adafv.pipeline.errors import JobError, RunError, UsageError
from adafv.pipeline.images.fetch import Fetcher
from adafv.pipeline.isolation import Handler
from adafv.pipeline.limits import Limits, LimitWatch
from adafv.pipeline.options import JobOptions
from adafv.pipeline.outputs.lease import Lease
from adafv.pipeline.outputs.ledger import Ledger, read_ledger
from adafv.pipeline.outputs.recipe import check_recipe, settle_recipe
from adafv.pipeline.outputs.sink import Sink
from adafv.pipeline.planning.plan import Plan, find_measured
from adafv.pipeline.planning.worklist import Worklist, make_worklist
from adafv.pipeline.record.hook import open_hook
from adafv.pipeline.record.metrics import Metrics, address
from adafv.pipeline.record.prices import Price, Tariff, read_prices
from adafv.pipeline.record.progress import Progress
from adafv.pipeline.record.run_record import RunRecord, public_options
from adafv.pipeline.redaction import redact, safe_message
from adafv.pipeline.sources import formats
from adafv.pipeline.sources.discovery import open_source
from adafv.pipeline.sources.records import Columns
from adafv.pipeline.store.output import Output, open_output
from adafv.pipeline.store.s3 import S3_ERRORS, store_error
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.stream import Fetching, Reading, rows_per_block, stream
from adafv.pipeline.workers.hub import commit_of, is_hub_id
from adafv.pipeline.workers.label import Labelling, LabelWorker, WorkerOptions
from adafv.pipeline.workers.model import at_version
from adafv.pipeline.workers.prepare import Preparation, Preparing, load_preparer

LOG = logging.getLogger("adafv")
TOO_MANY_REJECTS, STOPPED = 3, 4


@dataclass(frozen=True)
class RunResult:
    """How a run ended: the exit status (0, 3 for too many rejects, or 4 where it was stopped) and the run itself.

    Attributes:
        sample: the digests of the rows that `--sample` drew.
    """

    status: int
    run: RunRecord
    sample: Ledger | None = None


def run(
    options: JobOptions,
    handler: Callable[[WorkerOptions], Handler] | None = None,
    preparing: Callable[[Preparation], Handler] | None = None,
) -> RunResult:
    """Carry out a job. Its workers label with what `handler` makes of their options: a model, if it is left out; and
    rows are prepared likewise with what `preparing` makes.

    Raises:
        UsageError: the options can't be carried out (exit status 2).
        RunError: the run failed (exit status 1).
    """
    hook = None if options.on_finish is None else open_hook(options.on_finish)
    with contextlib.ExitStack() as stack:
        storage, output, columns, units = _open(options)
        prices = _prices(options)
        with RaySession():
            resources = _resources(options)
            _log_resources(options, resources)
            tariff = _tariff(options, prices, resources)
            parts = storage, output, columns, resources, tariff
            job = Job(options, *parts, handler or Labelling, preparing or Preparing)
            if hook is not None:  # when workers and lease are free again, so that a slow one keeps nobody waiting
                stack.callback(lambda: job.ended is None or hook(job.ended))
            return job.run(units)


def plan(options: JobOptions, measured: str | None = None) -> Plan:
    """What a run would do and take, by what is measured in an output or a calibration, or in the job's own output.
    Writes nothing.

    Raises:
        UsageError: the options can't be carried out, or nothing is measured.
    """
    options = _at_commit(options)
    storage, output, columns, units = _open(options)
    prices, speed = _prices(options), find_measured(options, measured, storage)
    with RaySession():
        resources = _resources(options)
        tariff = _tariff(options, prices, resources)
        start = time.monotonic()
        worklist = Job(options, storage, output, columns, resources, tariff, Labelling, Preparing).worklist(units)
        planning = time.monotonic() - start
    given = options.worker_range()
    return Plan(
        worklist.rows, worklist.skipped, planning, speed,
        workers=given[1] if given else speed.workers,
        price_per_hour=tariff.mean(speed.devices) if tariff.is_given else speed.price_per_hour,
        max_cost=options.max_cost,
        max_hours=options.max_hours,
    )  # fmt: skip


def _open(options: JobOptions) -> tuple[Storage, Output, Columns, list[formats.Unit]]:
    """What the options name, found before Ray is started."""
    storage = Storage.from_environment(options.s3_endpoint)
    output = open_output(options.output, storage)
    columns = Columns.of(options)
    sources = [open_source(uri, storage, columns) for uri in options.input]
    _log_sources(options, [source.ignored for source in sources])
    return storage, output, columns, [unit for source in sources for unit in source.units]


def _prices(options: JobOptions) -> tuple[Price, ...]:
    return tuple(read_prices(Path(options.prices), options.price_kind)) if options.prices else ()


def _tariff(options: JobOptions, prices: tuple[Price, ...], resources: Resources) -> Tariff:
    return Tariff(options.price_per_hour, prices, max(1, int(resources.worker_gpus)))


def _resources(options: JobOptions) -> Resources:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return allot(options, nodes, may_grow=not is_ours_alone())


def _log_sources(options: JobOptions, ignored: list[int]) -> None:
    for uri, count in zip(options.input, ignored, strict=True):
        if count:
            LOG.info("%s: %d files are of no known kind and were passed over", uri, count)


def _log_resources(options: JobOptions, resources: Resources) -> None:
    low, high = resources.workers
    many = f"{low:,}" if low == high else f"{low:,} or more" if high is None else f"{low:,} to {high:,}"
    LOG.info("device %s, %s workers, batches of %d", resources.device, many, resources.batch_size)
    if options.device == "auto" and resources.device == "cpu" and not is_ours_alone():
        LOG.warning("the cluster has no GPU at the moment, so CPUs do the work; --device cuda waits for GPUs")


class Job:
    """A run's parts, and its course.

    Attributes:
        ended: the run's record, when it has begun and ended.
    """

    def __init__(
        self,
        options: JobOptions,
        storage: Storage,
        output: Output,
        columns: Columns,
        resources: Resources,
        tariff: Tariff,
        handler: Callable[[WorkerOptions], Handler],
        preparing: Callable[[Preparation], Handler],
    ) -> None:
        options = _at_commit(options)
        self._options, self._storage, self._output = options, storage, output
        self._columns, self._resources, self._handler, self._tariff = columns, resources, handler, tariff
        self._preparing = preparing
        self._model = options.model
        self._engine = options.engine_options(resources.device)
        run_id = options.run_id or f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
        self._run = RunRecord(run_id, public_options(options), tariff, output.uri, resources)
        self._lease = Lease(output, run_id)
        self._limits, self._started = Limits.of(options, tariff), time.monotonic()
        self.ended: dict[str, Any] | None = None

    def run(self, units: list[formats.Unit]) -> RunResult:
        self._check_model()
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._lease)
            except (*S3_ERRORS, OSError) as error:
                raise self._unwritable(error) from error
            return self._run_alone(units)

    def _run_alone(self, units: list[formats.Unit]) -> RunResult:
        """The run, with the lease in hand: the ledger can't change between reading it and adding to it."""
        self._output.sweep()
        start = time.monotonic()
        worklist = self._worklist(units)
        self._run.plan_seconds = time.monotonic() - start
        self._run.input, self._run.skipped = worklist.rows, worklist.skipped
        LOG.info(
            "%s rows, %s done before, %s to do", f"{worklist.rows:,}", f"{worklist.skipped:,}", f"{worklist.to_do:,}"
        )
        self._begin()
        failure: str | None = "interrupted"
        try:
            failure = self._stream(worklist)
        finally:
            self._end(failure)
        if failure is not None:
            raise RunError(failure)
        if self._run.reject_rate > self._options.max_reject_rate:
            status = TOO_MANY_REJECTS
        else:
            status = 0 if self._run.stopped_by is None else STOPPED
        return RunResult(status, self._run, worklist.sample)

    def worklist(self, units: list[formats.Unit]) -> Worklist:
        """What a run would do, found without the lease, so that another job may be adding to the output."""
        try:
            check_recipe(self._output, self._options)
        except (*S3_ERRORS, OSError) as error:
            raise store_error(f"--output {self._output.uri} can't be read", error) from error
        return self._worklist(units)

    def _worklist(self, units: list[formats.Unit]) -> Worklist:
        try:
            ledger = read_ledger(self._output, self._options.retry_rejects)
        except (*S3_ERRORS, OSError, pa.ArrowException) as error:
            raise store_error(f"--output {self._output.uri} can't be read", error) from error
        worklist = make_worklist(
            units, ledger, self._storage, self._columns, self._options.limit, self._resources.read_cpus,
            self._options.sample, self._options.sample_adjacent,
        )  # fmt: skip
        if not worklist.rows:
            raise UsageError(f"--input {' '.join(self._options.input)}: there are no rows")
        return worklist

    def _check_model(self) -> None:
        """Fail here, with a message that names the model, rather than in every worker; note its version and sizes."""
        try:
            self._model = at_version(self._options.model, self._storage, self._options.revision)
            if self._options.text_tower is not None:
                self._engine = replace(self._engine, text_tower=at_version(self._options.text_tower, self._storage))
            self._run.sizes = load_preparer(self._model, self._engine, self._storage).sizes
        except (OSError, ValueError, *S3_ERRORS) as error:
            tower = self._options.text_tower
            named = f"--model {self._options.model}" + (f" with --text-tower {tower}" if tower else "")
            raise store_error(f"{named} can't be loaded", error) from error

    def _begin(self) -> None:
        try:
            settle_recipe(self._output, self._options)
            self._run.adopt_earlier(self._output)
            self._run.write(self._output)
        except (*S3_ERRORS, OSError) as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> JobError:
        return store_error(f"--output {self._output.uri} can't be written", error)

    def _stream(self, worklist: Worklist) -> str | None:
        """Label what there is to do; why that failed, if it did."""
        sink = Sink(self._output, self._run.run_id)
        self._run.tally = sink.tally
        if not worklist.to_do:
            return None
        try:
            self._consume(worklist, sink)
        except ray.exceptions.RayError as error:
            LOG.error("%s", redact(str(error)))
            failure = safe_message(cause_of(error))
        except (*S3_ERRORS, OSError) as error:
            failure = safe_message(f"the output can't be written: {error}")
        except RunError as error:  # the lease is lost
            failure = str(error)
        else:
            came, went = f"{sink.tally.rows:,}", f"{worklist.to_do:,}"
            if self._run.stopped_by is not None:
                return None
            return None if came == went else f"{went} rows went in and {came} came out; did the input change?"
        # The frames of Ray's exception hold on to the actors, and with them to their CPUs and GPUs, until the garbage
        # collector finds them: the next run in this process would wait for these for ever.
        gc.collect()
        return failure

    def _consume(self, worklist: Worklist, sink: Sink) -> None:
        metrics = Metrics(self._run.run_id, self._options.strategy, worklist.to_do)
        LOG.info("metrics: %s", address() or "none, Ray collects none here")
        gate = Gate() if self._limits.is_limited else None
        start, self._run.arrivals.since = time.monotonic(), time.time()
        try:
            with contextlib.ExitStack() as stack:
                roster = Roster(
                    self._resources.worker_gpus, LabelWorker.__name__, lambda: sink.tally.actors.copy().values()
                )
                progress = stack.enter_context(
                    Progress(
                        tally=sink.tally,
                        write_due=sink.write_due,
                        metrics=metrics,
                        to_do=worklist.to_do,
                        tariff=self._tariff,
                        roster=roster,
                    )
                )
                if gate is not None:
                    stack.enter_context(
                        self._watched(LimitWatch(self._limits, sink.tally, gate, self._started, roster), worklist)
                    )
                for table in self._dataset(worklist, gate).iter_batches(batch_size=None, batch_format="pyarrow"):
                    before = sink.tally.labelled
                    sink.add(table)
                    if sink.tally.labelled > before:
                        self._run.arrivals.note(time.monotonic() - start, sink.tally)
                    metrics.observe(table)
                    progress.check()
        finally:
            try:
                sink.close()
            finally:  # what is on record of a run whose last file can't be written
                self._run.seconds = time.monotonic() - start
                now = time.time()
                self._run.worker_seconds = sink.tally.worker_seconds(now)
                self._run.cost_usd = sink.tally.usd(now, self._tariff)
                metrics.publish(sink.tally, self._run.worker_seconds, self._run.cost_usd)

    @contextlib.contextmanager
    def _watched(self, watch: LimitWatch, worklist: Worklist) -> Iterator[None]:
        """Notes what stopped the run. A limit that was reached when all rows were in hand has stopped nothing."""
        try:
            with watch:
                yield
        except KeyboardInterrupt:
            if not watch.gave_up:
                raise
        finally:
            if self._run.tally.rows < worklist.to_do:
                self._run.stopped_by = watch.stopped_by

    def _end(self, failure: str | None) -> None:
        self._run.error = failure
        self._run.status = "failed" if failure is not None else "stopped" if self._run.stopped_by else "done"
        self._run.ended = datetime.now(UTC)
        self.ended = self._run.record()
        try:
            self._run.write(self._output)
        except (*S3_ERRORS, OSError, RunError) as error:
            problem = safe_message(f"the run's record can't be written: {error}")
            if failure is None:
                raise RunError(problem) from error
            LOG.warning("%s", problem)

    def _dataset(self, worklist: Worklist, gate: Gate | None) -> ray.data.Dataset:
        options, resources = self._options, self._resources
        low, high = resources.workers
        many = rows_per_block(worklist.to_do, high or low, resources.batch_size)
        reading = Reading(self._storage, self._columns, gate, many)
        fetching = Fetching(Fetcher(self._storage, options.max_image_bytes, options.allow_http), gate)
        preparing = Preparation.of(options, self._model, self._engine, self._storage, self._preparing)
        worker = WorkerOptions(
            options.model, self._model, self._engine, self._storage, self._run.run_id, self._tariff,
            resources.threads, options.batch_timeout, self._handler, gate,
        )  # fmt: skip
        return stream(worklist, reading, fetching, preparing, worker, resources)


def _at_commit(options: JobOptions) -> JobOptions:
    """`options` with the commit of the hub's model as their revision.

    Raises:
        UsageError: there is no such model or revision, or the model is none of the hub's and has a revision.
    """
    if not is_hub_id(options.model):
        if options.revision is not None:
            raise UsageError(f"--revision is {options.revision!r}, and --model {options.model} is no hub id")
        return options
    try:
        return replace(options, revision=commit_of(options.model, options.revision))
    except OSError as error:
        raise store_error(f"--model {options.model} can't be loaded", error) from error
