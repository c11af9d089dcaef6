"""jobs/label.py itself, with progress lines every second, and with a sink whose sizes the campaign sets.

A sink that waits for a minute has written nothing before most kills of a run that lasts for one. `ADAFV_SINK` is
ROWS,SECONDS; without it the sizes are the job's own.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Any
from unittest.mock import patch

from adafv.pipeline import collector, run
from jobs.label import main

if __name__ == "__main__":
    rows, _, seconds = os.environ.get("ADAFV_SINK", "").partition(",")
    sizes: dict[str, Any] = {"rows": int(rows), "seconds": float(seconds)} if rows else {}
    with (
        patch.object(collector, "Progress", partial(collector.Progress, every=1.0)),
        patch.object(run, "Sink", partial(run.Sink, **sizes)),
    ):
        sys.exit(main())
