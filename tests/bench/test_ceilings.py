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
    seconds = iter([4.0, 2.0, 3.0, 8.0, 0.5])  # two ways for either size, the copy
    done = []

    def in_known_time(device, work):
        done.append(work())
        return next(seconds)

    monkeypatch.setattr(ceilings, "_least_seconds", in_known_time)
    found = ceilings.measure(CPU, torch.bfloat16)
    assert found.operations_per_s == 2 * 64**3 / 3.0 and found.matrix == 64, "the best size, the better way"
    assert found.bytes_per_s == 2 * 4000 / 0.5, "read and written"
    assert [out.dtype for out in done] == [*[torch.bfloat16] * 4, torch.int32]
    assert "bfloat16 product of 64 x 64" in str(found)


def test_the_least_of_several_tries(small):
    tries = []
    assert 0 < ceilings._least_seconds(CPU, lambda: tries.append(0)) < 1
    assert len(tries) == 1 + 3, "one to warm up"
