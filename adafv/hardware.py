"""The machine that a process runs on: what it is called, and how the process keeps its memory."""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # see mallopt(3)
_NEVER, _LARGEST = 2**31 - 1, 32 * 2**20  # bytes; blocks over 32 MiB are always the kernel's own


def cpu_name() -> str:
    """As Linux names it. Some processors it doesn't, and elsewhere nothing does: then their architecture must do."""
    lines = _lines(Path("/proc/cpuinfo"))
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


@cache
def is_intel() -> bool:
    """Whether the processor is Intel's, as far as its name says so."""
    return "intel" in cpu_name().lower()


def has_amx(info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has AMX for products in bfloat16, as far as Linux says so. With AVX512-BF16 alone they are
    slower than float32's (docs/speed.md)."""
    flags = (line.partition(":")[2].split() for line in _lines(info) if line.startswith("flags"))
    return "amx_bf16" in next(flags, [])


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def instance_type(identity: Path = Path("/sys/devices/virtual/dmi/id")) -> str | None:
    """What the cloud calls this machine's kind, such as g5.xlarge, as far as the machine itself says so: Amazon's do,
    except the oldest. No network is asked.
    """
    try:
        vendor, product = ((identity / name).read_text().strip() for name in ("sys_vendor", "product_name"))
    except OSError:  # not Linux, or a machine or container without it
        return None
    return product if vendor == "Amazon EC2" and product else None


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, where its C library is glibc; elsewhere nothing changes.

    What goes back to the kernel comes again filled with zeros, a page fault at a time, and a model on a CPU frees and
    takes tensors of some MB at every step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _NEVER)
