"""jobs/label.py with workers that answer without a model, a row in a hundredth of a second, and that write often: a
night that is quick to begin, and that can be ended half-way (tests/jobs/half.py)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from unittest.mock import patch

import pyarrow as pa

from adafv.pipeline import run, schema
from adafv.pipeline.isolation import Handler
from adafv.pipeline.workers.label import GIVEN, WorkerOptions
from jobs.label import main
from tests.jobs import half

SECONDS = 0.01  # that a row takes


class Night(Handler):
    """A worker's handler."""

    def __init__(self, options: WorkerOptions) -> None:
        self._rows = 0

    def __call__(self, table: pa.Table, on_progress: Callable[[], None]) -> pa.Table:
        half.wait(self._rows, on_progress)
        self._rows += table.num_rows
        time.sleep(SECONDS * table.num_rows)
        common = {"answer": "no", "finish_reason": "stop", "batch_size": table.num_rows, "gpu_seconds": SECONDS}
        common |= {"labelled_at": datetime.now(UTC), "worker_device": "none"}
        return pa.Table.from_pylist([row | common for row in table.select(GIVEN).to_pylist()], schema=schema.RESULTS)


def label(arguments: list[str]) -> int:
    """The job's exit status."""
    with (
        patch.object(run, "Labelling", Night),
        patch.object(run, "Sink", partial(run.Sink, rows=20)),
    ):
        return main(arguments)


if __name__ == "__main__":
    from tests.jobs import night  # under this name the workers find the handler again

    sys.exit(night.label(sys.argv[1:]))
