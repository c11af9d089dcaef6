"""The most memory that something took.

On CUDA torch counts what it hands out. On a CPU the kernel keeps each process's largest resident set (VmHWM), which can
be set back to the present one. What the allocator holds of memory that nobody uses is handed back to the kernel first,
else it would be taken again unseen.
"""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import torch

from adafv.bench.process import resident

_RESET, _SET_BACK = Path("/proc/self/clear_refs"), "5"  # see proc(5)


class PeakMemory:
    """Counts from its construction on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        else:
            ctypes.CDLL(None).malloc_trim(0)
            _RESET.write_text(_SET_BACK)
            self._before = resident("VmRSS")

    def growth(self) -> int:
        """By how many bytes the memory in use exceeded at most what it was at first."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        return resident("VmHWM") - self._before
