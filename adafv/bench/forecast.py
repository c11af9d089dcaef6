"""How near `jobs/label.py --plan` comes to what the run then takes.

A sample of the rows is labelled, the rest is planned by it and then labelled: three commands, as a user gives them,
each in a process of its own. Compared are the record of the last and what the plan said of it: the seconds from the
first row asked for to the last one written, and what the workers were held.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adafv.bench.pipeline import job_in
from adafv.bench.process import apart
from adafv.bench.table import table as text_table
from adafv.pipeline.options import JobOptions
from adafv.pipeline.planning.plan import plan
from adafv.pipeline.record.estimate import RunEstimate
from adafv.pipeline.run import run

RUN = "planned"


@dataclass(frozen=True)
class ForecastCheck:
    """A plan beside its run. `sample`: rows that were labelled before, and that the plan is made by."""

    sample: int
    rows: int
    workers: int
    planned_seconds: float
    took_seconds: float
    planned_worker_seconds: float
    took_worker_seconds: float

    @property
    def error(self) -> float:
        """Of the time, as a share of what it took; negative where that was longer."""
        return self.planned_seconds / self.took_seconds - 1

    @property
    def cost_error(self) -> float:
        """Of the cost, which is in proportion to the workers' time."""
        return self.planned_worker_seconds / self.took_worker_seconds - 1


def compare(options: JobOptions, rows: int, samples: Sequence[int]) -> list[ForecastCheck]:
    """Label so many rows, planned by a sample of each size."""
    found = []
    for sample in samples:
        with tempfile.TemporaryDirectory(prefix="forecast") as folder:
            job = job_in(Path(folder), options, rows)
            apart(_label, replace(job, sample=sample))
            planned = apart(_plan, job)
            apart(_label, replace(job, run_id=RUN))
            record = json.loads(Path(job.output, "runs", f"{RUN}.json").read_text())
        found.append(
            ForecastCheck(
                sample, planned.rows, planned.workers, planned.seconds, record["throughput"]["seconds"],
                planned.worker_seconds, record["cost"]["worker_seconds"],
            )
        )  # fmt: skip
    return found


def _label(options: JobOptions) -> None:
    run(options)


def _plan(options: JobOptions) -> RunEstimate:
    return plan(options).estimate


def table(found: Sequence[ForecastCheck]) -> str:
    columns = {"sample": "8,", "rows": "9,", "workers": "9", "planned, s": "12.1f", "took, s": "9.1f", "off": "8.1%"}
    columns |= {"worker-s": "10.1f", "took": "9.1f", "off, %": "8.1%"}
    return text_table(
        columns,
        [
            (one.sample, one.rows, one.workers, one.planned_seconds, one.took_seconds, one.error,
             one.planned_worker_seconds, one.took_worker_seconds, one.cost_error)
            for one in found
        ],
    )  # fmt: skip
