"""What a process does with its memory."""

from __future__ import annotations

import platform
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from adafv.bench.process import resident
from adafv.hardware import keep_freed_memory

MIB = 2**20


def handed_back(keep: bool) -> int:
    """How many bytes go back to the kernel when a tensor of 31 MiB is freed."""
    if keep:
        keep_freed_memory()
    tensor = torch.ones(31 * MIB // 4)
    filled = resident("VmRSS")
    del tensor
    return filled - resident("VmRSS")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_what_is_freed_is_kept():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as process:
        usually, told_to_keep = (process.submit(handed_back, keep).result() for keep in (False, True))
    assert usually > 30 * MIB and told_to_keep < MIB
