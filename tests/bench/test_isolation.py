"""What a child process costs: the way there and back is told apart from the work."""

from __future__ import annotations

import time

import pyarrow as pa
import pytest

from adafv.bench.isolation import IsolationTimes, _measure, table

SLEEP = 0.2


class Sleeper:
    def __call__(self, given: pa.Table, on_progress) -> pa.Table:
        time.sleep(SLEEP)
        return given

    def is_spent(self, error: BaseException) -> bool:
        return False


def test_work_is_no_overhead():
    found = _measure("sleep", Sleeper, pa.table({"x": [1, 2, 3]}), rounds=2)
    assert found.rows == 3
    assert found.work_seconds >= SLEEP, "the child slept that long"
    assert 0 < found.way_seconds < found.work_seconds, "the way is what was waited beyond the work"


def test_overhead_is_of_the_work():
    measurement = IsolationTimes("label", 8, work_seconds=2.0, way_seconds=0.05)
    assert measurement.overhead_percent == pytest.approx(2.5)
    assert table([measurement]).splitlines()[1].split() == ["label", "8", "2000.00", "50.00", "2.5%"]
