"""Jobs that stop half-way and wait there to be ended, however slow or fast the machine is.

python -m tests.jobs.half ...    jobs/label.py itself, with a progress line every second
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import pyarrow as pa

from adafv.pipeline import collector, run
from adafv.pipeline.isolation import Handler
from adafv.pipeline.workers.label import Labelling, WorkerOptions
from jobs.label import main

HALF = "ADAFV_TESTS_HALF"  # the environment variable with how many rows a worker labels before it waits for ever


def wait(rows: int, on_progress: Callable[[], None]) -> None:
    """Return if a worker that has labelled so many rows is to label more."""
    while HALF in os.environ and rows >= int(os.environ[HALF]):
        on_progress()
        time.sleep(0.1)


class Half(Labelling):
    def __init__(self, options: WorkerOptions) -> None:
        super().__init__(options)
        self._rows = 0

    def __call__(self, table: pa.Table, on_progress: Callable[[], None]) -> pa.Table:
        wait(self._rows, on_progress)
        self._rows += table.num_rows
        return super().__call__(table, on_progress)


def label(handler: Callable[[WorkerOptions], Handler] = Half) -> int:
    """The exit status of jobs/label.py with this handler, and with a progress line every second."""
    with (
        patch.object(collector, "Progress", partial(collector.Progress, every=1.0)),
        patch.object(run, "Labelling", handler),
    ):
        return main()


if __name__ == "__main__":
    from tests.jobs import half  # under this name the workers find the handler again

    sys.exit(half.label())
