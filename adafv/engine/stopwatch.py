"""Stage times without stalling the device.

On CUDA an event is put into the device's queue at each boundary and read when the batch is over: asking for the time at
once would wait for the queue to drain, and cost more than some stages take. Elsewhere the host's clock is enough.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import torch


class Stopwatch:
    """Laps of one batch: `lap(stage)` ends a stage that began at the previous lap, or at construction."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = [("", self._now())]

    def lap(self, stage: str) -> None:
        """All since the last lap belongs to `stage`."""
        self._marks.append((stage, self._now()))

    def milliseconds(self) -> dict[str, float]:
        """Total time of each stage. Waits for the device."""
        if self._cuda:
            torch.cuda.synchronize()
        totals: dict[str, float] = defaultdict(float)
        for (_, start), (stage, end) in zip(self._marks, self._marks[1:], strict=False):
            totals[stage] += start.elapsed_time(end) if self._cuda else (end - start) * 1e3
        return totals

    def _now(self) -> Any:
        """An event of CUDA's, or seconds."""
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
