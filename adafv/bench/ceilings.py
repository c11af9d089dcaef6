"""What the hardware can do at best: the rate of a large matrix product, and that of a large copy.

Measured, not read off a data sheet: neither a throttled GPU nor two cores of a shared machine reach what is printed
there, and a limit that can't be reached tells nothing about a program. Values are random: products of zeros are faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from adafv.onednn import product

# Sizes of the square matrices, and bytes of the copy: enough to fill the device, and far more than caches hold.
_SIZES = {"cuda": (4096, 8192, 16_384), "cpu": (512, 1024, 2048)}
_COPIED = {"cuda": 2**32, "cpu": 2**28}
_SECONDS = {"cuda": 0.3, "cpu": 0.5}  # of tries of each
_FEWEST = 3  # tries


@dataclass(frozen=True)
class Ceilings:
    """The best of several tries each.

    Attributes:
        operations_per_s: floating-point operations of the matrix product, in `dtype`.
        matrix: rows of the square matrices that were fastest.
        bytes_per_s: read and written by the copy.
        copied: bytes that were copied.
    """

    dtype: str
    operations_per_s: float
    matrix: int
    bytes_per_s: float
    copied: int

    def __str__(self) -> str:
        return (
            f"{self.operations_per_s / 1e12:.3g} TFLOP/s ({self.dtype} product of {self.matrix} x {self.matrix} "
            f"matrices), {self.bytes_per_s / 1e9:.4g} GB/s read and written (copy of {self.copied / 2**30:.3g} GiB)"
        )


def measure(device: torch.device, dtype: torch.dtype) -> Ceilings:
    rates = {size: _product(device, dtype, size) for size in _SIZES[device.type]}
    fastest = max(rates, key=rates.__getitem__)
    copied = _COPIED[device.type]
    return Ceilings(str(dtype).removeprefix("torch."), rates[fastest], fastest, _copy(device, copied), copied)


def _product(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Operations a second, of torch's own product, or of that with a matrix laid out for it: whichever is faster."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    laid_out = product(right)
    ways = (lambda: torch.mm(left, right), lambda: laid_out(left))
    return 2 * size**3 / min(_least_seconds(device, way) for way in ways)


def _copy(device: torch.device, count: int) -> float:
    """Bytes a second, read and written."""
    source = torch.empty(count // 4, device=device, dtype=torch.int32).random_()
    target = torch.empty_like(source)
    return 2 * count / _least_seconds(device, lambda: target.copy_(source))


def _least_seconds(device: torch.device, work: Callable[[], object]) -> float:
    synchronise(device)
    work()
    synchronise(device)
    seconds: list[float] = []
    end = time.perf_counter() + _SECONDS[device.type]
    while len(seconds) < _FEWEST or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
