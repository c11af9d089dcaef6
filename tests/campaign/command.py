"""jobs/label.py itself, with progress lines every second, and with a sink whose sizes the campaign sets.

A sink that waits for a minute has written nothing before most kills of a run that lasts for one. `ADAFV_SINK` is
ROWS,SECONDS; without it the sizes are the job's own.
"""

from __future__ import annotations

import os
import sys
from functools import partial

from adafv.pipeline import run
from jobs.label import main

if __name__ == "__main__":
    run.Progress = partial(run.Progress, every=1.0)
    if "ADAFV_SINK" in os.environ:
        rows, seconds = os.environ["ADAFV_SINK"].split(",")
        run.Sink = partial(run.Sink, rows=int(rows), seconds=float(seconds))
    sys.exit(main())
