"""What a rerun costs before it begins: reading the ledger and planning, by the number of ids.

An output with N labels, in files such as the sink writes, and an input of N rows, half of which are labelled. For each
N a process of its own does what a job's driver does up to the plan, so that its peak memory is that N's and no other's.
The driver of a job has Ray, torch and the model's processor in memory by then; so has this one.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from adafv.bench.process import resident
from adafv.bench.table import table as text_table
from adafv.pipeline import schema
from adafv.pipeline.outputs.ledger import DIGEST, Ledger, read_ledger
from adafv.pipeline.outputs.sink import ROWS

INPUT_FILE_ROWS, INPUT_GROUP_ROWS = 250_000, 1_000
MIB = 2**20


@dataclass(frozen=True)
class Measurement:
    """One N. Seconds of wall time, of which judging is a part of planning: the part that more cores don't shorten.
    Bytes of the driver's peak resident set: before the ledger is read, with the ledger, and when the plan is made.
    """

    ids: int
    ledger_seconds: float
    discovery_seconds: float
    plan_seconds: float
    judge_seconds: float
    base_bytes: int
    ledger_bytes: int
    peak_bytes: int

    @property
    def seconds(self) -> float:
        return self.ledger_seconds + self.discovery_seconds + self.plan_seconds

    @property
    def bytes_per_id(self) -> float:
        """Over what the process had before; an id stands for one in the ledger and one in the input."""
        return (self.peak_bytes - self.base_bytes) / self.ids


def write_data(folder: Path, ids: int) -> None:
    """`ids` labels in folder/output, and in folder/input as many rows, whose first half is labelled."""
    for number, rows in enumerate(_ranges(0, ids, ROWS)):
        _write_labels(folder / "output" / "labels" / f"run-{number:05d}.parquet", rows)
    for number, rows in enumerate(_ranges(ids - ids // 2, ids, INPUT_FILE_ROWS)):
        _write_input(folder / "input" / f"{number:05d}.parquet", rows)


def _ranges(first: int, count: int, size: int) -> Iterable[range]:
    return (range(start, min(start + size, first + count)) for start in range(first, first + count, size))


def _write_labels(path: Path, rows: range) -> None:
    """Labels of which only the ids matter: the other columns are there, and null."""
    columns = {name: pa.nulls(len(rows), schema.LABELS.field(name).type) for name in schema.LABELS.names}
    columns["id"] = _ids(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, compression="zstd")


def _write_input(path: Path, rows: range) -> None:
    columns = {
        "id": _ids(rows),
        "image": pa.array([f"images/{row // 1000}/{row}.jpg" for row in rows]),
        "question": pa.array(["What is in the picture?"] * len(rows)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=INPUT_GROUP_ROWS)


def _ids(rows: range) -> pa.Array:
    return pa.array([f"image-{row:012d}" for row in rows])


def measure(folder: Path, ids: int) -> Measurement:
    """Do what a driver does with the data of `write_data`, up to the plan. For a process of its own."""
    import ray

    import adafv.pipeline.run  # noqa: F401  (what a driver has loaded)
    from adafv.pipeline.control.resources import allot
    from adafv.pipeline.options import JobOptions
    from adafv.pipeline.planning.worklist import make_worklist
    from adafv.pipeline.sources.discovery import open_source
    from adafv.pipeline.sources.records import Columns
    from adafv.pipeline.store.output import open_output
    from adafv.pipeline.store.storage import Storage
    from adafv.pipeline.workers.prepare import load_preparer

    options = JobOptions(input=(str(folder / "input"),), output=str(folder / "output"))
    columns = Columns.of(options)
    storage = Storage()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    resources = allot(options, [node["Resources"] for node in ray.nodes()])
    load_preparer(options.model, options.engine_on(resources.device), storage)
    base, start = resident("VmHWM"), time.perf_counter()
    ledger = read_ledger(open_output(options.output, storage), retry_rejects=False)
    with_ledger, read = resident("VmHWM"), time.perf_counter()
    units = open_source(options.input[0], storage, columns).units
    discovered = time.perf_counter()
    plan = make_worklist(units, ledger, storage=storage, columns=columns, num_cpus=resources.read_cpus)
    planned, peak = time.perf_counter(), resident("VmHWM")
    ray.shutdown()
    judging = _judging(ledger, ids)
    if (len(ledger), plan.rows, plan.skipped) != (ids, ids, ids // 2):
        raise AssertionError(f"{len(ledger)} done, {plan.rows} rows, {plan.skipped} of them done; wrong for {ids} ids")
    return Measurement(ids, read - start, discovered - read, planned - discovered, judging, base, with_ledger, peak)


def _judging(ledger: Ledger, ids: int) -> float:
    """Seconds that it takes to judge as many digests, once more and on its own."""
    from adafv.pipeline.planning.worklist import judge

    digests = np.frombuffer(np.random.default_rng(0).bytes(DIGEST.itemsize * ids), DIGEST)
    start = time.perf_counter()
    judge(digests, ledger)
    return time.perf_counter() - start


def table(found: Sequence[Measurement]) -> str:
    columns = {"ids": "13,", "ledger s": "10.1f", "discover s": "12.1f", "plan s": "9.1f", "judge s": "9.1f"}
    columns |= {"us/id": "8.2f", "base MiB": "10.0f", "+ledger": "9.0f", "peak MiB": "10.0f", "bytes/id": "10.1f"}
    rows = [
        (one.ids, one.ledger_seconds, one.discovery_seconds, one.plan_seconds, one.judge_seconds,
         1e6 * one.seconds / one.ids, one.base_bytes / MIB, one.ledger_bytes / MIB, one.peak_bytes / MIB,
         one.bytes_per_id)
        for one in found
    ]  # fmt: skip
    lines = [text_table(columns, rows)]
    if len(found) > 1:
        first, last = found[0], found[-1]
        lines.append(f"{last.ids / first.ids:.1f} times the ids took {last.seconds / first.seconds:.1f} times the time")
    return "\n".join(lines)
