"""What a machine is, and what a process does with its memory."""

from __future__ import annotations

import platform
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from adafv.bench.process import resident
from adafv.hardware import has_amx, instance_type, keep_freed_memory

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


@pytest.mark.parametrize(
    ("vendor", "product", "found"),
    [
        ("Amazon EC2\n", "g5.xlarge\n", "g5.xlarge"),
        ("Amazon EC2\n", "\n", None),
        ("Xen\n", "HVM domU\n", None),  # Amazon's oldest
        ("Google\n", "Google Compute Engine\n", None),
        ("Amazon EC2\n", None, None),
        (None, None, None),
    ],
)
def test_an_instance_says_what_it_is(tmp_path, vendor, product, found):
    for name, text in (("sys_vendor", vendor), ("product_name", product)):
        if text is not None:
            (tmp_path / name).write_text(text)
    assert instance_type(tmp_path) == found


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_tile\n", False),
        ("flags\t\t: fpu amx_bf16\n\nprocessor\t: 1\nflags\t\t: fpu amx_bf16\n", True),
        ("flags\t\t: fpu avx2 avx512f\nbugs\t\t: amx_bf16\n", False),
        ("Features\t: fp asimd bf16\n", False),  # Arm's
    ],
)
def test_a_processor_says_whether_it_has_amx(tmp_path, text, wanted):
    (tmp_path / "cpuinfo").write_text(text)
    assert has_amx(tmp_path / "cpuinfo") is wanted
    assert not has_amx(tmp_path / "none")
