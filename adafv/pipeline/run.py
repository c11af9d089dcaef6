"""One run of the job: plan it, stream the rows through Ray Data, write what comes out.

    read (a task per unit) -> fetch and prepare (CPU tasks) -> label (actors) -> sink (this process)

Nothing before the sink keeps state, so whatever Ray runs again does no harm; what the sink has written is done, and a
rerun of the same command plans only the rest.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import pickle
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import ray
import ray.data
import ray.exceptions

from adafv.pipeline.errors import JobError, RunError, UsageError, store_error
from adafv.pipeline.images.fetch import Fetcher
from adafv.pipeline.isolation import Handler
from adafv.pipeline.metrics import Metrics, address
from adafv.pipeline.options import JobOptions
from adafv.pipeline.outputs.folder import Output, open_output
from adafv.pipeline.outputs.lease import Lease
from adafv.pipeline.outputs.ledger import Ledger, read_ledger
from adafv.pipeline.outputs.recipe import settle_recipe
from adafv.pipeline.outputs.sink import Sink
from adafv.pipeline.plan import DONE, REPEATED, UNDRAWN, UNREAD, Plan, Task, make_plan
from adafv.pipeline.progress import Progress
from adafv.pipeline.rejects import Reject, redact, safe_message
from adafv.pipeline.resources import Resources, allot
from adafv.pipeline.sources import formats, rows
from adafv.pipeline.sources.discovery import open_source
from adafv.pipeline.sources.rows import Columns, Row, row_of
from adafv.pipeline.storage import S3_ERRORS, Storage
from adafv.pipeline.summary import Run
from adafv.pipeline.workers.label import Labelling, Worker, WorkerOptions
from adafv.pipeline.workers.model import absolute_model
from adafv.pipeline.workers.prepare import Preparation, Preparing, load_preparer

LOG = logging.getLogger("adafv")
ROWS_PER_BLOCK = 32  # what one preparing task takes: enough to share a fetch, few enough to spread over the CPUs
CALLS_PER_WORKER = 2  # one has the model, the next one's table is at hand when it is done; a third is on its way
TOO_MANY_REJECTS = 3


@dataclass(frozen=True)
class RunResult:
    """How a run ended: the exit status (0, or 3 for too many rejects) and the run itself.

    Attributes:
        sample: the digests of the rows that `--sample` drew.
    """

    status: int
    run: Run
    sample: Ledger | None = None


def run(options: JobOptions, handler: Callable[[WorkerOptions], Handler] | None = None) -> RunResult:
    """Carry out a job. Its workers label with what `handler` makes of their options: a model, if it is left out.

    Raises:
        UsageError: the options can't be carried out (exit status 2).
        RunError: the run failed (exit status 1).
    """
    storage = Storage.from_environment(options.s3_endpoint)
    output = open_output(options.output, storage)
    columns = Columns.of(options)
    sources = [open_source(uri, storage, columns) for uri in options.input]
    _log_sources(options, [source.ignored for source in sources])
    with RaySession():
        resources = allot(options, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        job = Job(options, storage, output, columns, resources, handler or Labelling)
        return job.run([unit for source in sources for unit in source.units])


def _log_sources(options: JobOptions, ignored: list[int]) -> None:
    for uri, count in zip(options.input, ignored, strict=True):
        if count:
            LOG.info("%s: %d files are of no known kind and were passed over", uri, count)


class RaySession:
    """Ray for the time of one run or of several: the one that is initialised, or the cluster that RAY_ADDRESS names, or
    a local one."""

    def __enter__(self) -> None:
        self._ours = not ray.is_initialized()
        if self._ours:
            address = os.environ.get("RAY_ADDRESS", "local")
            if address == "local":
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            dashboard = False if address == "local" else None
            handler = signal.getsignal(signal.SIGTERM)
            ray.init(address, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.WARNING)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray's own, set by init, ends the process in mid-write

    def __exit__(self, *_: object) -> None:
        if self._ours:
            ray.shutdown()


class Job:
    """A run's parts, and its course."""

    def __init__(
        self,
        options: JobOptions,
        storage: Storage,
        output: Output,
        columns: Columns,
        resources: Resources,
        handler: Callable[[WorkerOptions], Handler],
    ) -> None:
        self._options, self._storage, self._output = options, storage, output
        self._columns, self._resources, self._handler = columns, resources, handler
        self._model = absolute_model(options.model)
        self._engine = options.engine_options(resources.device)
        if options.text_tower is not None:
            self._engine = replace(self._engine, text_tower=absolute_model(options.text_tower))
        run_id = options.run_id or f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
        self._run = Run(run_id, options.public(), options.price_per_hour, output.uri, resources)
        self._lease = Lease(output, run_id)

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
        plan = self._plan(units)
        self._run.input, self._run.skipped = plan.rows, plan.skipped
        LOG.info("%s rows, %s done before, %s to do", f"{plan.rows:,}", f"{plan.skipped:,}", f"{plan.to_do:,}")
        self._begin()
        failure: str | None = "interrupted"
        try:
            failure = self._stream(plan)
        finally:
            self._end(failure)
        if failure is not None:
            raise RunError(failure)
        too_many = self._run.reject_rate > self._options.max_reject_rate
        return RunResult(TOO_MANY_REJECTS if too_many else 0, self._run, plan.sample)

    def _plan(self, units: list[formats.Unit]) -> Plan:
        try:
            ledger = read_ledger(self._output, self._options.retry_rejects)
        except (*S3_ERRORS, OSError, pa.ArrowException) as error:
            raise store_error(f"--output {self._output.uri} can't be read", error) from error
        plan = make_plan(
            units, ledger, self._storage, self._columns, self._options.limit, self._resources.read_cpus,
            self._options.sample,
        )  # fmt: skip
        if not plan.rows:
            raise UsageError(f"--input {' '.join(self._options.input)}: there are no rows")
        return plan

    def _check_model(self) -> None:
        """Fail here, with a message that names the model, rather than in every worker; note the model's sizes."""
        try:
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

    def _stream(self, plan: Plan) -> str | None:
        """Label what there is to do; why that failed, if it did."""
        sink = Sink(self._output, self._run.run_id)
        self._run.tally = sink.tally
        if not plan.to_do:
            return None
        try:
            self._consume(plan, sink)
        except ray.exceptions.RayError as error:
            LOG.error("%s", redact(str(error)))
            failure = safe_message(_cause(error))
        except (*S3_ERRORS, OSError) as error:
            failure = safe_message(f"the output can't be written: {error}")
        except RunError as error:  # the lease is lost
            failure = str(error)
        else:
            came, went = f"{sink.tally.rows:,}", f"{plan.to_do:,}"
            return None if came == went else f"{went} rows went in and {came} came out; did the input change?"
        # The frames of Ray's exception hold on to the actors, and with them to their CPUs and GPUs, until the garbage
        # collector finds them: the next run in this process would wait for these for ever.
        gc.collect()
        return failure

    def _consume(self, plan: Plan, sink: Sink) -> None:
        price = self._options.price_per_hour
        metrics = Metrics(self._run.run_id, self._options.strategy, plan.to_do, price)
        LOG.info("metrics: %s", address() or "none, Ray collects none here")
        start = time.monotonic()
        try:
            with Progress(sink, metrics, plan.to_do, price) as progress:
                for table in self._dataset(plan).iter_batches(batch_size=None, batch_format="pyarrow"):
                    sink.add(table)
                    metrics.observe(table)
                    progress.check()
        finally:
            try:
                sink.close()
            finally:  # what is on record of a run whose last file can't be written
                self._run.seconds = time.monotonic() - start
                self._run.worker_seconds = sink.tally.worker_seconds(time.time())
                metrics.publish(sink.tally, self._run.worker_seconds)

    def _end(self, failure: str | None) -> None:
        self._run.status, self._run.error = ("done", None) if failure is None else ("failed", failure)
        self._run.ended = datetime.now(UTC)
        try:
            self._run.write(self._output)
        except (*S3_ERRORS, OSError, RunError) as error:
            problem = safe_message(f"the run's record can't be written: {error}")
            if failure is None:
                raise RunError(problem) from error
            LOG.warning("%s", problem)

    def _dataset(self, plan: Plan) -> ray.data.Dataset:
        _quiet()
        options, resources = self._options, self._resources
        fetch = Fetcher(self._storage, options.max_image_bytes, options.allow_http)
        prepare = Preparation.of(options, self._model, self._engine, self._storage, Preparing)
        worker = WorkerOptions(
            options.model, self._model, self._engine, self._storage, self._run.run_id, options.price_per_hour,
            resources.threads, options.batch_timeout, self._handler,
        )  # fmt: skip
        low, high = resources.workers
        tasks = [{"task": pickle.dumps(task)} for task in plan.tasks]
        blocks = (
            ray.data.from_items(tasks, override_num_blocks=min(len(tasks), max(200, 8 * high)))
            .map_batches(
                Reading(self._storage, self._columns).__call__,
                batch_size=1, batch_format="pyarrow", num_cpus=resources.read_cpus,
            )
            .repartition(target_num_rows_per_block=ROWS_PER_BLOCK)
        )  # fmt: skip
        # Cutting into blocks would be a stage of its own, for which Ray reserves a whole CPU, and which starves where
        # workers leave less. With the reservation of the reading stage it becomes a part of it. Ray has no option.
        blocks._logical_plan.dag.ray_remote_args["num_cpus"] = resources.read_cpus  # type: ignore[attr-defined]
        return (
            blocks
            .map_batches(fetch.__call__, batch_size=None, batch_format="pyarrow", num_cpus=resources.prepare_cpus)
            .map_batches(prepare.__call__, batch_size=None, batch_format="pyarrow", num_cpus=resources.prepare_cpus)
            .map_batches(
                Worker,
                fn_constructor_args=(worker,),
                batch_size=resources.batch_size,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    min_size=low,
                    max_size=high,
                    max_concurrent_calls_per_actor=CALLS_PER_WORKER,
                    max_tasks_in_flight_per_actor=CALLS_PER_WORKER + 1,
                    enable_true_multi_threading=True,
                ),
                num_cpus=resources.worker_cpus,
                num_gpus=resources.worker_gpus or None,
            )
        )  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """The reading stage: the records of a task's unit that the plan has a use for."""

    storage: Storage
    columns: Columns

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        for data in table.column("task").to_pylist():
            task: Task = pickle.loads(data)
            gathered: list[Row] = []
            for row in self._rows(task):
                gathered.append(row)
                if len(gathered) == ROWS_PER_BLOCK:
                    yield rows.to_table(gathered)
                    gathered = []
            yield rows.to_table(gathered)

    def _rows(self, task: Task) -> Iterator[Row]:
        idle = np.isin(task.verdicts, (DONE, UNDRAWN)).tolist()
        records = formats.read(task.unit, self.storage, self.columns, idle=idle)
        for passed, verdict, record in zip(idle, task.verdicts, records, strict=False):
            if passed:
                continue
            row = row_of(record, self.columns)
            if verdict == UNREAD and row.reject is None:
                message = f"{record.place} could not be read when the run was planned"
                row = row.rejected(Reject("source_unreadable", message))
            if verdict == REPEATED:
                row = row.rejected(Reject("duplicate_id", f"an earlier row than {record.place} has the same id"))
            yield row


def _quiet() -> None:
    """Keep Ray Data's bars and notices out of the job's log; they are in Ray's own. What fails, this module reports."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _cause(error: ray.exceptions.RayError) -> str:
    """The reason of a Ray error in one line. Of an exception in a stage, that is the last line of its own traceback,
    which Ray prints before those of the exceptions it wrapped around it."""
    inner, wrapped, _ = str(error).partition("\n\nThe above exception was the direct cause")
    lines = [line.strip() for line in inner.splitlines() if line.strip()]
    return lines[-1 if wrapped else 0] if lines else type(error).__name__
