"""`--plan`: what a run would do, take and cost, before anything is started or written.

Rows to do are counted as a run counts them. Speed is never guessed: it is that of a recorded run with the same model,
strategy, budget and prompt, in this output, another one, or a calibration's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions, budget_name, option_fields
from adafv.pipeline.outputs.recipe import changes_of, check_recipe, recipe_of
from adafv.pipeline.passed import Passed
from adafv.pipeline.planning.worklist import find_worklist
from adafv.pipeline.record.estimate import Measured, RunEstimate
from adafv.pipeline.record.run_record import format_table, read_records, redacted
from adafv.pipeline.redaction import redact, safe_message
from adafv.pipeline.setup import set_up, with_commit
from adafv.pipeline.store.output import open_output
from adafv.pipeline.store.s3 import S3_ERRORS, store_error
from adafv.pipeline.store.storage import Storage

HOW = (
    "measure first: the same command with --sample 320 instead of --plan labels 320 rows, which count towards the job "
    "(more with many workers); or give --measured the output of a calibration or of an earlier job"
)
TIMED = ("audit", "duplicates")  # options that decide what a label takes, but not what it is


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What there is to do, and the measured speed.

    Attributes:
        input: rows; `done`: of these, done before.
        planning: seconds that the count took, as it will in a run.
        workers: how many will work; `price_per_hour`: of each; `is_priced`: whether any price is given.
        passed: input that makes no row.
        differing: how the measured run's `TIMED` options differ, in words.
    """

    input: int
    done: int
    planning: float
    measured: Measured
    workers: int
    price_per_hour: float | None
    is_priced: bool = False
    max_cost: float | None = None
    max_hours: float | None = None
    passed: tuple[Passed, ...] = ()
    differing: tuple[str, ...] = ()

    @property
    def to_do(self) -> int:
        return self.input - self.done

    @property
    def estimate(self) -> RunEstimate:
        return self.measured.estimate(self.to_do, self.workers)


def plan(options: JobOptions, measured: str | None = None) -> Plan:
    """What a run would do and take, by the speed measured in an output, a calibration, or the job's own output. Writes
    nothing and takes no lease.

    Raises:
        UsageError: the options can't be carried out, or nothing is measured.
        RunError: the store or the cluster fails.
    """
    options = with_commit(options)
    speed = find_measured(options, measured, Storage.from_environment(options.s3_endpoint))
    with set_up(options) as setup:
        start = time.monotonic()
        try:
            check_recipe(setup.output, setup.options)
        except (*S3_ERRORS, OSError) as error:
            raise store_error(f"--output {setup.output.uri} can't be read", error) from error
        worklist = find_worklist(setup)
        planning = time.monotonic() - start
    given, tariff = options.worker_range(), setup.tariff
    return Plan(
        input=worklist.rows,
        done=worklist.skipped,
        planning=planning,
        measured=speed,
        workers=given[1] if given else speed.workers,
        price_per_hour=tariff.mean(speed.devices) if tariff.is_given else speed.price_per_hour,
        is_priced=tariff.is_given,
        max_cost=options.max_cost,
        max_hours=options.max_hours,
        passed=worklist.passed,
        differing=differing(speed, options),
    )


def find_measured(options: JobOptions, uri: str | None, storage: Storage) -> Measured:
    """The recorded run with the most rows among those labelled as `options` say, rather one without `differing`.

    Args:
        uri: an output, or a calibration's folder of outputs; None for the output of `options`.

    Raises:
        UsageError: there is none.
    """
    where = options.output if uri is None else uri
    uris = [where, f"{where.rstrip('/')}/{budget_name(options.engine.strategy, options.engine.keep)}"]
    wanted = redacted(recipe_of(options))
    wanted.pop("strategy_version", None)  # records don't say
    found: list[Measured] = []
    others: list[str] = []
    for record in (record for uri in uris for record in _records(uri, storage)):
        changes = changes_of({name: value for name, value in record["config"].items() if name in wanted}, wanted)
        if changes:
            others = changes
        elif (measured := Measured.of(record)) is not None:
            found.append(measured)
    if found:
        return max(found, key=lambda one: (not differing(one, options), one.rows))
    why = f"its runs used other options ({'; '.join(others)})" if others else "no run of it has enough figures"
    raise UsageError(f"--plan: {redact(where)} doesn't show this job's speed: {why}; {HOW}")


def differing(measured: Measured, options: JobOptions) -> tuple[str, ...]:
    """How the measured run's `TIMED` options differ from `options`, in words."""
    wanted = {name: value for name, value in options.values().items() if name in TIMED}
    earlier = {name: measured.config.get(name, option_fields()[name].default) for name in wanted}
    return tuple(changes_of(earlier, wanted))


def _records(uri: str, storage: Storage) -> Iterator[dict[str, Any]]:
    """The records of ended runs, earlier ones of the same name included; none without an output."""
    output = open_output(uri, storage)
    try:
        records = read_records(output, lambda record: (record["status"] != "running" and record["config"], record))
    except (*S3_ERRORS, OSError) as error:
        raise UsageError(f"{output.uri} can't be read: {safe_message(str(error))}") from error
    return (record for ended, record in records if ended)


def summary(plan: Plan) -> str:
    """The text that is printed."""
    measured, estimate = plan.measured, plan.estimate
    cost = estimate.cost_usd(plan.price_per_hour)
    unknown = f"--prices has no price for {measured.device}" if plan.is_priced else "give --price-per-hour or --prices"
    lines = [
        ("input", f"{plan.input:,} rows"),
        *(("passed over", str(one)) for one in plan.passed),
        ("done before", f"{plan.done:,}"),
        ("to do", f"{plan.to_do:,} (listed in {plan.planning:.0f} s)"),
        ("measured", f"{measured.rows:,} rows in {measured.seconds:,.1f} s with {_workers(measured.workers)} on "
                     f"{measured.device}, run {measured.run_id}, {measured.started[:10]}"),
        ("per row", f"{1000 * measured.label:,.1f} ms of a worker, {1000 * measured.prepare:,.1f} ms of a CPU to "
                        f"prepare, {1000 * measured.fetch:,.1f} ms to fetch"),
        *(("but", f"{one}, which changes what a row takes") for one in plan.differing),
        ("limited by", _bound(measured)),
        ("workers", f"{plan.workers:,}"),
        ("start-up", _lasting(estimate.start)),
        ("steady", f"{_lasting(estimate.steady)}, {measured.rows_per_second * plan.workers:,.1f} rows/s"),
        ("tail", _lasting(estimate.tail)),
        ("total", _lasting(estimate.seconds)),
        ("worker-hours", f"{estimate.worker_seconds / 3600:,.3f}"),
        ("USD", f"- ({unknown})" if cost is None else f"{cost:,.4f}"),
        *_limits(plan),
    ]  # fmt: skip
    return format_table("plan: nothing is started or written", lines)


def _bound(measured: Measured) -> str:
    each = f"one worker needs {measured.prepare / measured.label:.2f} CPUs for preparing"
    if measured.is_fed:
        return f"labelling: workers were busy {measured.busy:.0%} of the time; {each}"
    return (
        f"fetching and preparing: workers were busy {measured.busy:.0%} of the time; {each}. More CPUs per "
        "worker or a nearer store would help; more workers alone would not"
    )


def _limits(plan: Plan) -> list[tuple[str, str]]:
    """The effect of --max-cost and --max-hours."""
    lines, measured, estimate = [], plan.measured, plan.estimate
    cost, hours = estimate.cost_usd(plan.price_per_hour), plan.max_hours
    if plan.max_cost is not None and cost is not None and plan.price_per_hour:
        seconds = 3600 * plan.max_cost / plan.price_per_hour / plan.workers - measured.held + measured.start
        within = min(plan.to_do, measured.rows_within(seconds, plan.workers))
        lines.append((f"for {plan.max_cost:,.2f} USD", f"{within:,} rows, {plan.to_do - within:,} left"))
    if hours is not None:
        within = min(plan.to_do, measured.rows_within(3600 * hours, plan.workers))
        needed = measured.workers_within(plan.to_do, 3600 * hours)
        workers = "no number of workers is enough" if needed is None else f"all of them need {_workers(needed)}"
        lines.append((f"in {hours:g} hours", f"{within:,} rows, {plan.to_do - within:,} left; {workers}"))
    return lines


def _workers(count: int) -> str:
    return f"{count:,} worker" + ("s" if count > 1 else "")


def _lasting(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds < 100 else str(timedelta(seconds=round(seconds)))
