"""The processor that this runs on, for whatever is written down of a measurement or a run."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_name() -> str:
    """As Linux names it. Some processors it doesn't, and elsewhere nothing does: then their architecture must do."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
