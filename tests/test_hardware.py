"""What a process does with its memory."""

from __future__ import annotations

import platform
import resource
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from adafv.hardware import keep_freed_memory

MANY = 100
BYTES = 8 * 2**20


def page_faults(keep: bool) -> int:
    """Of filling tensors of 8 MiB one after the other."""
    if keep:
        keep_freed_memory()
    torch.set_num_threads(1)
    torch.ones(BYTES // 4), torch.ones(BYTES // 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(MANY):
        first, second = torch.ones(BYTES // 4), torch.ones(BYTES // 4)
        del first, second
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_what_is_freed_is_used_again():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as process:
        handed_back, kept = (process.submit(page_faults, keep).result() for keep in (False, True))
    assert kept < MANY * BYTES // resource.getpagesize() // 20 < handed_back
