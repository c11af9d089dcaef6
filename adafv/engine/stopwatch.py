"""Stage times without stalling the device.

On CUDA an event is put into the device's queue at each boundary and read when the batch is over: asking for the time at
once would wait for the queue to drain, and cost more than some stages take. Elsewhere the host's clock is enough.
"""

from __future__ import annotations

import time
from collections import defaultdict

import torch


class Stopwatch:
    """Laps of one batch: `lap(stage)` ends a stage that began at the previous lap, or at construction."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, float | torch.cuda.Event]] = [("", self._now())]

    def lap(self, stage: str) -> None:
        """All since the last lap belongs to `stage`."""
        self._marks.append((stage, self._now()))

    def milliseconds(self) -> dict[str, float]:
        """Total time of each stage. Waits for the device."""
        if self._cuda:
            torch.cuda.synchronize()
        totals: dict[str, float] = defaultdict(float)
        for (_, start), (stage, end) in zip(self._marks, self._marks[1:], strict=False):
            totals[stage] += _between(start, end)
        return totals

    def _now(self) -> float | torch.cuda.Event:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(start, float) and isinstance(end, float):
        return (end - start) * 1e3
    assert isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event)
    return start.elapsed_time(end)
