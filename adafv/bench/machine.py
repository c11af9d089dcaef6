"""The machine that a figure was measured on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime

from adafv.hardware import cpu_name


@dataclass(frozen=True)
class Machine:
    """What every figure has to be read with. `cores` are those that this process may use, `gpu` is the one that torch
    would, if any.
    """

    cpu: str
    cores: int
    memory_gib: float
    gpu: str | None
    python: str
    date: str

    def __str__(self) -> str:
        gpu = f", {self.gpu}" if self.gpu else ""
        return f"{self.cpu}, {self.cores} cores, {self.memory_gib:.0f} GiB{gpu}; Python {self.python}; {self.date}"


def this_machine() -> Machine:
    return Machine(
        cpu=cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        gpu=_gpu(),
        python=platform.python_version(),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
    )


def _gpu() -> str | None:
    import torch  # here: a process whose memory is measured would be found with torch in it

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
