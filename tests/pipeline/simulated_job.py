"""jobs/label.py itself, with simulated workers and a progress line every second.

Where a node's environment has ADAFV_HELD, each of its workers leaves a file in that folder when it has rows, and waits
until there is also one called `go`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from adafv.bench.scale import Simulated
from tests.jobs.half import label


class Held(Simulated):
    def __call__(self, table: pa.Table, on_progress: Callable[[], None]) -> pa.Table:
        if folder := os.environ.get("ADAFV_HELD"):
            Path(folder, str(os.getpid())).touch()
            while not Path(folder, "go").exists():
                on_progress()
                time.sleep(0.1)
        return super().__call__(table, on_progress)


if __name__ == "__main__":
    from tests.pipeline import simulated_job  # under this name the workers find the handler again

    sys.exit(label(simulated_job.Held))
