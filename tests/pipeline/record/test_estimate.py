"""What a run on record says of one to come: made records, of which the arithmetic is known."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adafv.pipeline.record.estimate import Measured


def record(**values: Any) -> dict[str, Any]:
    """Two workers load for 50 s of the run's first 60, then label 10 rows a second each in batches of 20 for 100 s;
    the last file takes 3 s."""
    made = {"first": 60.0, "first_rows": 20, "last": 161.0, "labelled": 2000, "rejected": 0, "seen": 2, "most": 2}
    made |= {"steady_rows": 1960, "steady": 196.0}
    made |= {"gpu_seconds": 200.0, "batches": 100, "seconds": 164.0, "worker_seconds": 2 * 154.0} | values
    return {
        "run_id": "r",
        "started_at": "2026-11-22T01:00:00+00:00",
        "hardware": {
            "devices": [{"device": "GPU", "instance": None, "workers": made["seen"]}],
            "workers": [1, made["most"]],
        },
        "counts": {"labelled": made["labelled"], "rejected": made["rejected"]},
        "totals": {
            "gpu_seconds": made["gpu_seconds"], "batches": made["batches"], "preprocess_ms": 40_000.0,
            "fetch_ms": 2000.0,
        },
        "throughput": {
            "seconds": made["seconds"], "first_label_rows": made["first_rows"], "first_batch_seconds": made["first"],
            "last_batch_seconds": made["last"], "steady_rows": made["steady_rows"],
            "steady_worker_seconds": made["steady"],
        },
        "cost": {"worker_seconds": made["worker_seconds"], "price_per_hour": 3.6},
    }  # fmt: skip


def measured(**values: Any) -> Measured:
    found = Measured.of(record(**values))
    assert found is not None
    return found


def test_the_parts_of_a_run():
    found = measured()
    assert (found.start, found.held, found.end, found.batch) == (60, 50, 3, 2)
    assert found.rows_per_second == pytest.approx(10)
    assert (found.label, found.prepare, found.fetch) == pytest.approx((0.1, 0.02, 0.001))
    assert found.busy == pytest.approx(1) and found.is_fed


def test_an_estimate_of_the_same_run_is_what_it_took():
    found = measured().estimate(2000)
    assert (found.start, found.steady, found.tail) == pytest.approx((60, 100, 5))
    assert found.worker_seconds == pytest.approx(2 * (50 + 100 + 5))
    assert found.cost_usd(3.6) == pytest.approx(0.31) and found.cost_usd(None) is None


def test_more_workers_do_the_steady_part_faster_and_start_as_long():
    found = measured().estimate(10_000_000, 20)
    assert (found.start, found.steady, found.tail) == pytest.approx((60, 50_000, 5))
    assert measured().estimate(10_000_000, 1).tail == 3, "one worker waits for no other"


def test_nothing_takes_nothing():
    found = measured().estimate(0)
    assert (found.seconds, found.worker_seconds) == (0, 0)


def test_workers_that_waited():
    found = measured(gpu_seconds=80.0)
    assert found.busy == pytest.approx(0.4) and not found.is_fed
    assert found.estimate(2000).steady == pytest.approx(100, rel=0.01), "as fast as rows came, not as it labels"


def test_workers_that_made_rejects_did_not_wait():
    """Half of the rows were answered, and rejected for what was answered."""
    made = record(labelled=1000, rejected=1000, steady_rows=980, gpu_seconds=100.0)
    made["totals"]["rejected_gpu_seconds"] = 100.0
    found = Measured.of(made)
    assert found is not None and (found.label, found.batch) == pytest.approx((0.1, 2.0))
    assert found.busy == pytest.approx(1) and found.is_fed


def test_a_worker_that_was_started_again_is_one():
    assert measured(seen=5).workers == 2


@pytest.mark.parametrize(
    "values",
    [
        {"first": None},
        {"steady_rows": 0, "steady": 0.0},  # no worker had a second batch
        {"gpu_seconds": 0.0},
        {"seen": 0},
    ],
)
def test_runs_that_say_too_little(values):
    assert Measured.of(record(**values)) is None


def test_a_record_of_an_older_version_says_too_little():
    old = record()
    old["throughput"] = {"seconds": 164.0, "samples_per_second": 12.0}
    assert Measured.of(old) is None


@given(rows=st.integers(1, 10**9), hours=st.floats(0.1, 100))
def test_limits_and_estimates_agree(rows, hours):
    """So many workers as are said to do it in time do it, and one fewer doesn't; what fits into the time takes it."""
    one = measured()
    needed = one.workers_within(rows, 3600 * hours)
    assert needed is not None
    assert one.estimate(rows, needed).seconds <= 3600 * hours * (1 + 1e-9)
    if needed > 2:
        assert one.estimate(rows, needed - 1).seconds > 3600 * hours * (1 - 1e-9)
    within = one.rows_within(3600 * hours, 2)
    assert one.estimate(within, 2).seconds <= 3600 * hours + 1e-6 < one.estimate(within + 1, 2).seconds + 0.2


def test_no_number_of_workers_is_ready_before_they_have_started():
    assert measured().workers_within(10, 60) is None and measured().rows_within(60, 5) == 0
