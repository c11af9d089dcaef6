"""The Ray Data stages, from the worklist's tasks to results.

    read (a task per unit) -> fetch and prepare (CPU tasks) -> label (actors)

Stages keep no state that a row's result depends on, so Ray may run any of them again.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
import ray.data

from adafv.internals import set_last_stage_cpus
from adafv.pipeline.control.gate import Gate
from adafv.pipeline.control.resources import Resources
from adafv.pipeline.control.session import configure_ray_data
from adafv.pipeline.images.fetch import Fetcher
from adafv.pipeline.planning.worklist import DONE, REPEATED, UNDRAWN, UNREAD, Task, Worklist
from adafv.pipeline.rejects import Reject
from adafv.pipeline.sources import formats, rows
from adafv.pipeline.sources.rows import Columns, Row, row_of
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.workers.label import LabelWorker, WorkerOptions
from adafv.pipeline.workers.prepare import Preparation

# Rows per block. A block costs the driver the same whatever its size, so large inputs get larger ones: small enough to
# spread over the workers, and for the decoded images to fit into memory.
LEAST_ROWS, MOST_ROWS, BLOCKS_PER_WORKER = 32, 128, 32
CALLS_PER_WORKER = 2  # one has the model, the next is ready; a third is on its way
GROW_AT = 2.5  # mean calls per worker at which another worker is started


def stream(
    worklist: Worklist,
    *,
    reading: Reading,
    fetching: Fetcher,
    preparing: Preparation,
    worker: WorkerOptions,
    resources: Resources,
) -> ray.data.Dataset:
    """Labels and rejects (`schema.RESULTS`) for the rows of `worklist`, in any order."""
    configure_ray_data(GROW_AT / CALLS_PER_WORKER)
    low, high = resources.workers
    tasks = [{"task": pickle.dumps(task)} for task in worklist.tasks]
    blocks = (
        ray.data.from_items(tasks, override_num_blocks=min(len(tasks), max(200, 8 * (high or low))))
        .map_batches(reading.__call__, batch_size=1, batch_format="pyarrow", num_cpus=resources.read_cpus)
        .repartition(target_num_rows_per_block=reading.rows_per_block)
    )
    # Repartitioning would be a stage of its own with a whole CPU reserved, and starve if workers leave less. With the
    # reading stage's reservation Ray fuses it into that stage. There is no option for it.
    set_last_stage_cpus(blocks, resources.read_cpus)
    return (
        blocks
        .map_batches(fetching.__call__, batch_size=None, batch_format="pyarrow", num_cpus=resources.prepare_cpus)
        .map_batches(preparing.__call__, batch_size=None, batch_format="pyarrow", num_cpus=resources.prepare_cpus)
        .map_batches(
            LabelWorker,
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


def rows_per_block(rows: int, workers: int, batch_size: int) -> int:
    """How many rows travel in one block: whole batches, if possible."""
    many = min(MOST_ROWS, rows // (BLOCKS_PER_WORKER * workers))
    return max(LEAST_ROWS, many - many % batch_size)


@dataclass(frozen=True)
class Reading:
    """The reading stage: the records of a task's unit that need work."""

    storage: Storage
    columns: Columns
    gate: Gate | None = None
    rows_per_block: int = LEAST_ROWS

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        for data in table.column("task").to_pylist():
            found, is_empty = self._rows(pickle.loads(data)), True
            while self._may_begin() and (some := list(islice(found, self.rows_per_block))):
                yield rows.to_table(some)
                is_empty = False
            if is_empty:
                yield rows.to_table([])  # so that Ray sees the columns

    def _may_begin(self) -> bool:
        return self.gate is None or self.gate.is_open()

    def _rows(self, task: Task) -> Iterator[Row]:
        idle = np.isin(task.verdicts, (DONE, UNDRAWN)).tolist()
        records = formats.read_unit(task.unit, self.storage, self.columns, idle=idle)
        for unneeded, verdict, record in zip(idle, task.verdicts, records, strict=False):
            if unneeded:
                continue
            row = row_of(record, self.columns)
            if verdict == UNREAD and row.reject is None:
                message = f"{record.place} could not be read while the run was planned"
                row = row.rejected(Reject("source_unreadable", message))
            if verdict == REPEATED:
                row = row.rejected(Reject("duplicate_id", f"an earlier row than {record.place} has the same id"))
            yield row
