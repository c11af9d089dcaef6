"""Peak memory: what was taken since, and nothing from before."""

from __future__ import annotations

import torch

from adafv.bench.memory import PeakMemory
from tests.bench.tiny_shapes import CPU

MIB = 2**20


def test_growth_is_what_was_taken_since_even_if_it_is_gone():
    for size in (200, 50):  # the first is larger: its peak must not count for the second
        memory = PeakMemory(CPU)
        taken = torch.ones(size * MIB // 4)
        del taken
        assert size - 2 < memory.growth() / MIB < size + 30


def test_what_was_there_before_does_not_count():
    kept = torch.ones(100 * MIB // 4)
    assert PeakMemory(CPU).growth() < 30 * MIB
    assert kept.any()
