"""`jobs/label.py --plan`: what a run would do, take and cost, before anything is started or written.

How many rows are to do is found as a run finds it. How long a row takes is never guessed: it is what a run of the same
model, strategy, budget and prompt took that is on record, in this output, in another, or in a calibration's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions, budget_name
from adafv.pipeline.outputs.recipe import changes_of, check_recipe, recipe_of
from adafv.pipeline.passed import Passed
from adafv.pipeline.planning.worklist import find_worklist
from adafv.pipeline.record.estimate import Measured, RunEstimate
from adafv.pipeline.record.run_record import format_table, read_records
from adafv.pipeline.redaction import redact, safe_message
from adafv.pipeline.setup import Setup, set_up, with_commit
from adafv.pipeline.store.output import open_output
from adafv.pipeline.store.s3 import S3_ERRORS, store_error
from adafv.pipeline.store.storage import Storage

SIZES = (1_000_000, 10_000_000, 100_000_000)  # rows, of the table that goes beyond this input
DAY = 24.0  # hours in which they are to be done, where --max-hours doesn't say
HOW = (
    "measure first: the same command with --sample 320 instead of --plan labels 320 rows (give some for each worker), "
    "and they count; or give --measured with the output of a calibration or of an earlier job"
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to do, and what was measured.

    Attributes:
        input: rows; `done`: of these, before.
        planning: seconds that it took to find that out, as it will take a run.
        workers: how many are to do it; `price_per_hour`: of each.
        passed: what the input shows and no row is made of.
    """

    input: int
    done: int
    planning: float
    measured: Measured
    workers: int
    price_per_hour: float | None
    max_cost: float | None = None
    max_hours: float | None = None
    passed: tuple[Passed, ...] = ()

    @property
    def to_do(self) -> int:
        return self.input - self.done

    @property
    def estimate(self) -> RunEstimate:
        return self.measured.estimate(self.to_do, self.workers)


def plan(options: JobOptions, measured: str | None = None) -> Plan:
    """What a run would do and take, by what is measured in an output or a calibration, or in the job's own output.
    Writes nothing, and takes no lease: another job may be adding to the output.

    Raises:
        UsageError: the options can't be carried out, or nothing is measured.
        RunError: the store or the cluster fails.
    """
    options = with_commit(options)
    speed = find_measured(options, measured, Storage.from_environment(options.s3_endpoint))
    with set_up(options) as setup:
        start = time.monotonic()
        _check_recipe(setup)
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
        max_cost=options.max_cost,
        max_hours=options.max_hours,
        passed=worklist.passed,
    )


def _check_recipe(setup: Setup) -> None:
    try:
        check_recipe(setup.output, setup.options)
    except (*S3_ERRORS, OSError) as error:
        raise store_error(f"--output {setup.output.uri} can't be read", error) from error


def find_measured(options: JobOptions, uri: str | None, storage: Storage) -> Measured:
    """The run on record that shows most: of those labelled as `options` say, the one with the most rows.

    Args:
        uri: where the runs are: an output, or a calibration's folder of several; None for that of `options`.

    Raises:
        UsageError: there is none.
    """
    where = options.output if uri is None else uri
    places = [where, f"{where.rstrip('/')}/{budget_name(options.engine.strategy, options.engine.keep)}"]
    wanted = {name: _public(value) for name, value in recipe_of(options).items() if name != "strategy_version"}
    found: list[Measured] = []
    differing: list[str] = []
    for record in (record for place in places for record in _records(place, storage)):
        changes = changes_of(_recipe_in(record, wanted), wanted)
        if changes:
            differing = changes
        elif (measured := Measured.of(record)) is not None:
            found.append(measured)
    if found:
        return max(found, key=lambda one: one.rows)
    why = (
        f"its runs were made in another way ({'; '.join(differing)})" if differing else "it has no run that says enough"
    )
    raise UsageError(f"--plan: nothing is known of this job's speed from {redact(where)}: {why}; {HOW}")


def _public(value: Any) -> Any:
    """An option's value as a record has it."""
    return redact(value) if isinstance(value, str) else value


def _recipe_in(record: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    return {name: record["config"][name] for name in wanted if name in record["config"]}


def _records(uri: str, storage: Storage) -> Iterator[dict[str, Any]]:
    """The records of the runs that have ended, those of the same name included; none where there is no output."""
    output = open_output(uri, storage)
    try:
        records = read_records(output, lambda record: (record["status"] != "running" and record["config"], record))
    except (*S3_ERRORS, OSError) as error:
        raise UsageError(f"{output.uri} can't be read: {safe_message(str(error))}") from error
    return (record for ended, record in records if ended)


def summary(plan: Plan) -> str:
    """The text that is printed."""
    measured, estimate, price = plan.measured, plan.estimate, plan.price_per_hour
    lines = [
        ("input", f"{plan.input:,} rows"),
        *(("passed over", str(one)) for one in plan.passed),
        ("done before", f"{plan.done:,}"),
        ("to do", f"{plan.to_do:,} (found out in {plan.planning:.0f} s)"),
        ("measured", f"{measured.rows:,} rows in {measured.seconds:,.1f} s with {_workers(measured.workers)} on "
                     f"{measured.device}, run {measured.run_id}, {measured.started[:10]}"),
        ("a row takes", f"{1000 * measured.label:,.1f} ms of a worker, {1000 * measured.prepare:,.1f} ms of a CPU to "
                        f"prepare, {1000 * measured.fetch:,.1f} ms to fetch"),
        ("bound by", _bound(measured)),
        ("workers", f"{plan.workers:,}"),
        ("start-up", _lasting(estimate.start)),
        ("steady", f"{_lasting(estimate.steady)}, {measured.rows_per_second * plan.workers:,.1f} rows/s"),
        ("tail", _lasting(estimate.tail)),
        ("in all", _lasting(estimate.seconds)),
        ("worker-hours", f"{estimate.worker_seconds / 3600:,.3f}"),
        ("USD", "- (give --price-per-hour or --prices)" if price is None else _usd(estimate, price)),
        *_limits(plan),
    ]  # fmt: skip
    return "\n".join([format_table("plan: nothing is started or written", lines), "", *_sizing(plan)])


def _bound(measured: Measured) -> str:
    each = f"one worker takes what {measured.prepare / measured.label:.2f} CPUs prepare"
    if measured.is_fed:
        return f"labelling: workers were busy for {measured.busy:.0%} of the time; {each}"
    return (
        f"what feeds the workers: they were busy for {measured.busy:.0%} of the time; {each}. More CPUs for each "
        "worker, or a nearer store, would help; more workers alone would not"
    )


def _limits(plan: Plan) -> list[tuple[str, str]]:
    """What comes of --max-cost and --max-hours."""
    lines, measured, estimate = [], plan.measured, plan.estimate
    cost, hours = estimate.cost_usd(plan.price_per_hour), plan.max_hours
    if plan.max_cost is not None and cost is not None and plan.price_per_hour:
        seconds = 3600 * plan.max_cost / plan.price_per_hour / plan.workers - measured.held + measured.start
        within = min(plan.to_do, measured.rows_within(seconds, plan.workers))
        lines.append((f"for {plan.max_cost:,.2f} USD", f"{within:,} rows, {plan.to_do - within:,} left"))
    if hours is not None:
        within = min(plan.to_do, measured.rows_within(3600 * hours, plan.workers))
        needed = measured.workers_within(plan.to_do, 3600 * hours)
        workers = "no number of workers does" if needed is None else f"all of them take {_workers(needed)}"
        lines.append((f"in {hours:g} hours", f"{within:,} rows, {plan.to_do - within:,} left; {workers}"))
    return lines


def _sizing(plan: Plan) -> list[str]:
    """A table of what more rows would take."""
    measured, price = plan.measured, plan.price_per_hour
    hours = plan.max_hours or DAY
    lines = [
        f"{'rows':>13}{'worker-hours':>14}{'USD':>14}{f'hours with {plan.workers:,}':>20}"
        f"{f'workers for {hours:g} h':>20}"
    ]
    for rows in SIZES:
        one, needed = measured.estimate(rows, plan.workers), measured.workers_within(rows, 3600 * hours)
        lines.append(
            f"{rows:>13,}{one.worker_seconds / 3600:>14,.1f}{_usd(one, price, 2):>14}{one.seconds / 3600:>20,.1f}"
            f"{'-' if needed is None else format(needed, ','):>20}"
        )
    return lines


def _workers(count: int) -> str:
    return f"{count:,} worker" + ("s" if count > 1 else "")


def _usd(estimate: RunEstimate, price: float | None, digits: int = 4) -> str:
    cost = estimate.cost_usd(price)
    return "-" if cost is None else f"{cost:,.{digits}f}"


def _lasting(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds < 100 else str(timedelta(seconds=round(seconds)))
