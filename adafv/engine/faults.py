"""What can go wrong on the device: too little memory, which smaller batches cure, and errors that nothing cures.

How much memory a batch takes depends on the crops of its images and the length of its answers, so no batch size can be
chosen that fits for certain and isn't wasteful. One that doesn't fit is halved; the size that was found is kept, and a
larger one is tried now and then.

Any other error of CUDA leaves the process's context useless: each later call fails, or worse, computes nonsense. Such a
process has to end.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from adafv.engine.sample import Label

Asked = TypeVar("Asked")  # what a batch is made of: samples, or what stands for them

# What a CPU's memory running out looks like: neither torch's allocator nor oneDNN has a class of its own for it. oneDNN
# tells only what it could not do; for want of anything else it could not have done it for the trial sample.
_ON_A_CPU = ("DefaultCPUAllocator", "could not create a primitive", "could not create a memory", "std::bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory could not be had: the device's, or, where that is a CPU, the host's."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _ON_A_CPU)
    )


def breaks_device(error: BaseException) -> bool:
    """Whether `error` left the device unusable for this process."""
    if is_out_of_memory(error):
        return False
    libraries = ("CUDA error", "CUDA driver error", "cuDNN error", "cuBLAS error", "CUBLAS_STATUS", "CUDNN_STATUS")
    return isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and any(name in str(error) for name in libraries)
    )


class BatchSplitter:
    """Splits batches into parts that fit the device's memory.

    A limit that many parts kept to grows by half. Each attempt that fails costs a batch, so the next one takes twice as
    many parts to come.

    Attributes:
        limit: most samples that are labelled at once.
    """

    def __init__(self) -> None:
        self.limit = sys.maxsize
        self._fitted, self._patience = 0, 8  # parts of this limit that fitted; how many it takes to try a larger one
        self._fits = 0  # the limit before it grew

    def label(
        self,
        samples: Sequence[Asked],
        label: Callable[[Sequence[Asked]], list[Label]],
        misfits: list[int] | None = None,
    ) -> list[Label]:
        """`label(samples)`, in as many parts as it takes.

        A sample that doesn't fit by itself raises what the allocator raised. It says nothing of others, so the limit
        and the patience are then what they were before. Where there is a list of `misfits`, its place is added to
        these instead, and it has no label.
        """
        labels: list[Label] = []
        before, done = (self.limit, self._patience), 0
        while done < len(samples):
            part = samples[done : done + self.limit]
            try:
                labels += label(part)
                self._fit(len(part))
                done += len(part)
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1 and misfits is None:
                    self.limit, self._patience = before
                    raise
            # Out here the exception is gone, and with it the frames that hold on to the tensors of the failed attempt.
            if len(part) > 1:
                self._shrink(len(part))
            elif misfits is not None:
                misfits.append(done)
                done += 1
            _release()
        return labels

    def _fit(self, count: int) -> None:
        self._fitted += count == self.limit
        if self._fitted == self._patience:
            self._fits, self._fitted = self.limit, 0
            self.limit += (self.limit + 1) // 2

    def _shrink(self, count: int) -> None:
        self.limit = self._fits if self._fits < count and self._fits else count // 2
        self._fitted, self._patience = 0, 2 * self._patience


def _release() -> None:
    """Hand unused memory back, so that blocks of other sizes can be had."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
