"""One run of the job: plan it, stream the rows through Ray Data, write what comes out.

What the sink has written is done: a rerun of the same command plans only the rest.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import ray.data
import ray.exceptions

from adafv.hardware import has_amx
from adafv.option import OptionError, require
from adafv.pipeline import schema
from adafv.pipeline.collector import Collector
from adafv.pipeline.control.gate import Gate
from adafv.pipeline.control.session import cause_of, is_ours_alone
from adafv.pipeline.errors import RunError, UsageError
from adafv.pipeline.images.fetch import Fetcher
from adafv.pipeline.isolation import Handler, RefusedError
from adafv.pipeline.limits import Limits
from adafv.pipeline.options import JobOptions, usage_error
from adafv.pipeline.outputs.lease import Lease
from adafv.pipeline.outputs.recipe import settle_recipe
from adafv.pipeline.outputs.sink import Sink
from adafv.pipeline.planning.worklist import Worklist, find_worklist
from adafv.pipeline.record.hook import open_hook
from adafv.pipeline.record.run_record import RunRecord, public_options
from adafv.pipeline.redaction import redact, safe_message
from adafv.pipeline.result import DONE, STOPPED, TOO_MANY_REJECTS, RunResult
from adafv.pipeline.setup import Setup, set_up, unwritable, with_commit
from adafv.pipeline.store.s3 import S3_ERRORS, store_error
from adafv.pipeline.stream import Reading, rows_per_block, stream
from adafv.pipeline.workers.label import Labelling, WorkerOptions, added_fields
from adafv.pipeline.workers.model import at_version
from adafv.pipeline.workers.prepare import Preparation, Preparing, load_preparer
from adafv.pipeline.workers.repeats import KnownLabels

LOG = logging.getLogger("adafv")


def label(options: JobOptions) -> RunResult:
    """Label a data set from Python, as `adafv label` does: for a notebook or a scheduler's task.

    Returns when the run has ended; calling it again with the same options resumes or extends the run. It prints
    nothing: progress goes to the logger `adafv` at INFO. It never exits the process, and leaves signals and log
    handlers alone. It uses a Ray that is already initialised; otherwise it starts Ray, or joins the cluster that
    RAY_ADDRESS names, for the time of the call.

    Raises:
        UsageError: the options can't be carried out; the message says what to change.
        RunError: the run failed; calling again resumes it.
        KeyboardInterrupt: the user ended it; what was labelled by then is written.
    """
    return run(options)


def run(
    options: JobOptions,
    handler: Callable[[WorkerOptions], Handler] | None = None,
    preparing: Callable[[Preparation], Handler] | None = None,
) -> RunResult:
    """Carry out a job. Tests may replace the model's work (`handler`) and the preparation (`preparing`). Errors as for
    `label`."""
    hook = None if options.on_finish is None else open_hook(options.on_finish)
    options = with_commit(options)
    with contextlib.ExitStack() as stack, set_up(options, writing=True) as setup:
        _log_resources(setup)
        job = Job(setup=setup, handler=handler or Labelling, preparing=preparing or Preparing)
        if hook is not None:  # after workers and lease are freed, so that a slow hook blocks nobody
            stack.callback(lambda: job.ended is None or hook(job.ended))
        return job.run()


def _log_resources(setup: Setup) -> None:
    resources = setup.resources
    low, high = resources.workers
    many = f"{low:,}" if low == high else f"{low:,} or more" if high is None else f"{low:,} to {high:,}"
    LOG.info("device %s, workers: %s, batches of %d", resources.device, many, resources.batch_size)
    if resources.device != "cpu":
        return
    if setup.options.engine.device == "auto" and not is_ours_alone():
        LOG.warning("the cluster has no GPU now, so this run uses CPUs; --device cuda waits for GPUs")
    if setup.options.engine.dtype == "auto" and is_ours_alone() and has_amx():
        LOG.info("labels are made in float32; --dtype bfloat16 is faster on this processor")


class Job:
    """One run, from its start to its end.

    Attributes:
        ended: the run's record once it has ended.
    """

    def __init__(
        self,
        *,
        setup: Setup,
        handler: Callable[[WorkerOptions], Handler],
        preparing: Callable[[Preparation], Handler],
    ) -> None:
        options, output = setup.options, setup.output
        self._setup, self._handler, self._preparing = setup, handler, preparing
        self._model, self._engine = options.model, setup.engine
        self._limits, self._began = Limits.of(options, setup.tariff), time.monotonic()
        if self._limits.is_limited and threading.current_thread() is not threading.main_thread():
            raise UsageError("--max-cost and --max-hours interrupt the main thread: call this from that thread")
        run_id = options.run_id or f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
        self._run = RunRecord(
            run_id=run_id,
            config=public_options(options),
            tariff=setup.tariff,
            output=output.uri,
            resources=setup.resources,
        )
        self._lease = Lease(output, run_id)
        self.ended: dict[str, Any] | None = None

    def run(self) -> RunResult:
        """Errors as for `label`."""
        self._check_model()
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._lease)
            except (*S3_ERRORS, OSError) as error:
                raise unwritable(self._setup.output, error) from error
            return self._run_alone()

    def _check_model(self) -> None:
        """Fail here, with a message that names the model, rather than in every worker; note its version and sizes."""
        options, storage, tower = self._setup.options, self._setup.storage, self._engine.text_tower
        try:
            self._model = at_version(options.model, storage, options.revision)
            if tower is not None:
                self._engine = replace(self._engine, text_tower=at_version(tower, storage))
            preparer = load_preparer(self._model, self._engine, storage)
            self._run.sizes, self._run.generation = preparer.sizes, preparer.generation
            takes = options.system is None or preparer.takes_system
            require(takes, "system", options.system, f"unset: the chat template of {options.model} has no system turn")
        except OptionError as error:
            raise usage_error(error) from error
        except (OSError, ValueError, *S3_ERRORS) as error:
            named = f"--model {options.model}" + (f" with --text-tower {tower}" if tower else "")
            raise store_error(f"{named} can't be loaded", error) from error

    def _run_alone(self) -> RunResult:
        """The run with the lease held: nobody else adds to the ledger meanwhile."""
        self._setup.output.sweep()
        worklist = self._plan()
        self._begin()
        failure: str | None = "interrupted"
        try:
            failure = self._stream(worklist)
        except Exception as error:  # one that `_stream` doesn't expect: nobody interrupted the run
            failure = safe_message(f"{type(error).__name__}: {error}")
            raise
        finally:
            self._end(failure)
        if failure is not None:
            refusal = f"{RefusedError.__module__}.{RefusedError.__name__}: "
            if failure.startswith(refusal) and not self._run.tally.labelled:
                raise UsageError(
                    f"--model {self._setup.options.model} can't be loaded: {failure.removeprefix(refusal)}"
                )
            raise RunError(failure)
        return RunResult(status=self._status(), run=self._run, sample=worklist.sample)

    def _plan(self) -> Worklist:
        start = time.monotonic()
        worklist = find_worklist(self._setup)
        self._run.plan_seconds = time.monotonic() - start
        self._run.input, self._run.skipped = worklist.rows, worklist.skipped
        LOG.info(
            "%s rows, %s done before, %s to do", f"{worklist.rows:,}", f"{worklist.skipped:,}", f"{worklist.to_do:,}"
        )
        self._run.passed_over = worklist.passed
        for one in worklist.passed:
            LOG.info("passed over: %s", one)
        return worklist

    def _begin(self) -> None:
        output = self._setup.output
        try:
            settle_recipe(output, self._setup.options)
            self._run.adopt_earlier(output)
            self._run.write(output)
        except (*S3_ERRORS, OSError) as error:
            raise unwritable(self._setup.output, error) from error

    def _stream(self, worklist: Worklist) -> str | None:
        """Label what there is to do. Returns why it failed, or None."""
        options = self._setup.options
        carried, fields = added_fields(self._engine, self._setup.columns.carried)
        reused = [schema.DUPLICATE] if options.duplicates == "reuse" else []
        labels = schema.labels_schema([*reused, *carried, *fields], options.optional_columns)
        sink = Sink(self._setup.output, self._run.run_id, labels=labels)
        self._run.tally = sink.tally
        sink.tally.audit.measure = options.agreement_measure()
        if not worklist.to_do:
            return None
        try:
            self._collect(worklist, sink)
        except ray.exceptions.RayError as error:
            LOG.error("%s", redact(str(error)))
            failure = safe_message(cause_of(error))
        except (*S3_ERRORS, OSError) as error:
            failure = safe_message(f"can't write the output: {error}")
        except RunError as error:  # the lease is lost
            failure = str(error)
        else:
            came, went = f"{sink.tally.rows:,}", f"{worklist.to_do:,}"
            if self._run.stopped_by is not None:
                return None
            return None if came == went else f"{went} rows went in but {came} came out; did the input change?"
        # Ray's exception keeps the actors, and so their CPUs and GPUs, alive until the garbage collector runs: the next
        # run in this process would wait for them for ever.
        gc.collect()
        return failure

    def _collect(self, worklist: Worklist, sink: Sink) -> None:
        gate = Gate() if self._limits.is_limited else None
        collector = Collector(
            setup=self._setup, record=self._run, worklist=worklist, sink=sink, gate=gate, began=self._began
        )
        collector.collect(self._results(worklist, gate))

    def _results(self, worklist: Worklist, gate: Gate | None) -> ray.data.Dataset:
        """The stages; nothing runs yet."""
        options, storage, resources = self._setup.options, self._setup.storage, self._setup.resources
        low, high = resources.workers
        many = rows_per_block(worklist.to_do, high or low, resources.batch_size)
        allowed = None if options.allow_local is None else os.path.abspath(options.allow_local)
        return stream(
            worklist,
            reading=Reading(storage, self._setup.columns, gate, many),
            fetching=Fetcher(storage, options.max_image_bytes, options.allow_http, allow_local=allowed, gate=gate),
            preparing=Preparation.of(
                options, model=self._model, engine=self._engine, storage=storage, handler=self._preparing
            ),
            worker=WorkerOptions(
                model=options.model,
                path=self._model,
                engine=self._engine,
                storage=storage,
                run_id=self._run.run_id,
                tariff=self._setup.tariff,
                threads=resources.threads,
                batch_timeout=options.batch_timeout,
                handler=self._handler,
                carried=self._setup.columns.carried,
                known=KnownLabels() if options.duplicates == "reuse" else None,
                gate=gate,
            ),
            resources=resources,
        )

    def _end(self, failure: str | None) -> None:
        self._note_end(failure)
        try:
            self._run.write(self._setup.output)
        except (*S3_ERRORS, OSError, RunError) as error:
            problem = safe_message(f"can't write the run's record: {error}")
            if failure is None:
                self._note_end(problem)
                raise RunError(problem) from error
            LOG.warning("%s", problem)

    def _note_end(self, failure: str | None) -> None:
        self._run.error = failure
        self._run.status = "failed" if failure is not None else "stopped" if self._run.stopped_by else "done"
        self._run.ended = datetime.now(UTC)
        self.ended = self._run.record()

    def _status(self) -> int:
        if self._run.has_too_many_rejects(self._setup.options.max_reject_rate):
            return TOO_MANY_REJECTS
        options = self._setup.options
        if options.audit_fails and self._run.agrees_too_little(options.min_agreement):
            return TOO_MANY_REJECTS
        return DONE if self._run.stopped_by is None else STOPPED
