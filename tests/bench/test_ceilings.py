"""Ceilings: rates are operations and bytes over the least time."""

from __future__ import annotations

import pytest
import torch

from adafv.bench import ceilings
from tests.bench.tiny_shapes import CPU


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(ceilings, "_SIZES", {"cpu": (16, 64)})
    monkeypatch.setattr(ceilings, "_COPIED", {"cpu": 4000})
    monkeypatch.setattr(ceilings, "_SECONDS", {"cpu": 0.0})


def test_rates(small, monkeypatch):
    done = []

    def in_half_a_second(device, work):
        done.append(work())
        return 0.5

    monkeypatch.setattr(ceilings, "_least_seconds", in_half_a_second)
    found = ceilings.measure(CPU, torch.bfloat16)
    assert found.operations_per_s == 4 * 64**3 and found.matrix == 64, "the faster of the two sizes"
    assert found.bytes_per_s == 4 * 4000, "read and written"
    assert [out.dtype for out in done] == [torch.bfloat16, torch.bfloat16, torch.int32]
    assert "bfloat16 product of 64 x 64" in str(found)


def test_the_least_of_several_tries(small):
    tries = []
    assert 0 < ceilings._least_seconds(CPU, lambda: tries.append(0)) < 1
    assert len(tries) == 1 + 3, "one to warm up"
