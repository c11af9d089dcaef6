"""jobs/label.py itself, with simulated workers and a progress line every second."""

from __future__ import annotations

import sys
from functools import partial
from unittest.mock import patch

from adafv.bench.scale import Simulated
from adafv.pipeline import collector, run
from jobs.label import main

if __name__ == "__main__":
    with (
        patch.object(collector, "Progress", partial(collector.Progress, every=1.0)),
        patch.object(run, "Labelling", Simulated),
    ):
        sys.exit(main())
